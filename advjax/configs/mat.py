"""MAT (arXiv 2112.05005, TIFS 2022): peers that are adversarially trained and learn from each other's outputs.

    python -m experiments.run --config=experiments/configs/mat.py:digits --workdir=runs/mat-digits
    python -m experiments.run --config=experiments/configs/mat.py:cifar10 --workdir=runs/mat --config.method.peers=3
    python -m experiments.run --config=experiments/configs/mat.py:cifar10 --workdir=runs/mat-two_kinds \\
        --config.networks.peer1.name=mobilenet_v2

A peer learns from the others' predictions on the clean images, as the paper's framework figure has it; its body and code
were not available, so coefficients, temperature and recipe are our reconstruction. Behind a data set, `-exchange` is a
form of ours in which peers exchange their adversarial examples, too, and `-no_kl` the control without any teaching.
Two ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 at half and three quarters. Every peer is reported; choose
one, if at all, by its accuracy on the validation images in `metrics.jsonl`. `--config.method.sequential=True` updates
one peer after the other. `mini_imagenet` reads 84x84 images from an image folder (`--config.data.path=mini-imagenet`).
"""

from advjax.configs import common

PEERS_WITH_FIELDS = 4


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, mini_imagenet and cifar10-wrn_34_10, the first four also with -exchange or
    -no_kl; cifar10-fair.
    """
    config = common.get_config("mat")
    for k in range(PEERS_WITH_FIELDS):  # an empty name: config.network
        config.networks[f"peer{k}"] = {"name": "", "width": 0, "mean": (), "std": ()}
    return common.variant(config, variant, VARIANTS)


def _mini_imagenet(config):
    config.data.name = "image_folder"
    config.data.image_size = 84
    return config


def _exchange(config):
    config.method.form = "exchange"


def _no_kl(config):
    config.method.a = 0.0


def _wrn_34_10(config):
    config.network.name = "wrn_34_10"


_CIFAR10 = {"cifar10": lambda config: common.cifar(config, 10)}
VARIANTS = (
    {"cifar10-fair": common.fair}
    | common.combined(
        {
            "digits": common.digits,
            **_CIFAR10,
            "cifar100": lambda config: common.cifar(config, 100),
            "mini_imagenet": _mini_imagenet,
        },
        {"exchange": _exchange, "no_kl": _no_kl},
    )
    | common.combined(_CIFAR10, {"wrn_34_10": _wrn_34_10})
)
