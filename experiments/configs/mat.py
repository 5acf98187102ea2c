"""MAT (arXiv 2112.05005, TIFS 2022): peers that learn from each other's adversarial examples and outputs.

    python -m experiments.run --config=experiments/configs/mat.py:digits --workdir=runs/mat-digits
    python -m experiments.run --config=experiments/configs/mat.py:cifar10 --workdir=runs/mat --config.method.peers=3
    python -m experiments.run --config=experiments/configs/mat.py:cifar10 --workdir=runs/mat-two_kinds \\
        --config.networks.peer1.name=mobilenet_v2

Equations, coefficients and recipe are our reconstruction: the paper's body and code were not available. Two ResNet-18,
200 epochs, SGD 0.1, weight decay 5e-4, x0.1 at half and three quarters. Every peer is reported; choose one, if at all, by
its accuracy on the validation images in `metrics.jsonl`. Behind a data set, `-no_kl` is the control: as many adversarial
examples per step, no distillation. `--config.method.sequential=True` updates one peer after the other.
`mini_imagenet` reads 84x84 images from an image folder (`--config.data.path=mini-imagenet`).
"""

from experiments.configs import common

PEERS_WITH_FIELDS = 4


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, mini_imagenet and cifar10-wrn_34_10, the first four also with -no_kl."""
    config = common.get_config("mat")
    for k in range(PEERS_WITH_FIELDS):  # an empty name: config.network
        config.networks[f"peer{k}"] = {"name": "", "width": 0, "mean": (), "std": ()}
    return common.variant(config, variant, VARIANTS)


def _mini_imagenet(config):
    config.data.name = "image_folder"
    config.data.image_size = 84
    return config


def _no_kl(config):
    config.method.update({"a": 0.0, "c": 0.0})


def _wrn_34_10(config):
    config.network.name = "wrn_34_10"


_CIFAR10 = {"cifar10": lambda config: common.cifar(config, 10)}
VARIANTS = common.combined(
    {
        "digits": common.digits,
        **_CIFAR10,
        "cifar100": lambda config: common.cifar(config, 100),
        "mini_imagenet": _mini_imagenet,
    },
    {"no_kl": _no_kl},
) | common.combined(_CIFAR10, {"wrn_34_10": _wrn_34_10})
