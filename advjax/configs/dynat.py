"""DYNAT (arXiv 2408.13102): a guide learns clean images, a target adversarial ones with the guide's labels.

    python -m experiments.run --config=experiments/configs/dynat.py:digits --workdir=runs/dynat-digits
    python -m experiments.run --config=experiments/configs/dynat.py:cifar10 --workdir=runs/dynat
    python -m experiments.run --config=experiments/configs/dynat.py:cifar10-awp --workdir=runs/dynat-awp

The authors' recipe: target WRN-34-10, guide ResNet-18 with stage strides 1, 1, 2, 2; 100 epochs, SGD, weight decay
2e-4, learning rate 0.02 in epoch 1, 0.1, then 0.01 from epoch 76 and 0.001 from 91; eps 0.031, start x + 0.001 N(0, I).
Behind a data set: `-trades_inner` attacks the KL to the target's clean prediction, `-beta02` weights the target's loss
0.2, `-awp` is the authors' AWP variant; on CIFAR `-resnet18` has a ResNet-18 target. The inner budget is
`--config.attack.steps=N`. `--config.method.labels=true --config.method.clean_statistics=False` is the control, PGD-AT.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, each also with -trades_inner, -beta02, -awp; CIFAR with -resnet18, -fair."""
    config = common.get_config("dynat")
    config.epochs = 100
    config.optimizer.weight_decay = 2e-4
    config.schedule.milestones = (0.75, 0.9)
    config.schedule.warmup = 0.01
    config.schedule.warmup_factor = 0.2
    return common.variant(config, variant, VARIANTS)


def _cifar(config, classes):
    config.network.name = "wrn_34_10"
    config.networks.guide = {"name": "resnet18_lbgat", "width": 0, "mean": (), "std": ()}
    return common.cifar(config, classes)


def _trades_inner(config):
    config.method.inner = "kl"


def _beta02(config):
    config.method.beta = 0.2


def _awp(config):
    config.method.update({"name": "dynat_awp", "inner": "kl", "beta": 0.2, "kl_weight": 1.0})
    config.method.update({"awp_gamma": 0.005, "awp_warmup": 0.1})
    if config.data.name == "digits":
        config.epochs = 25  # it compiles two steps, before and after the warm-up, and is to take less than two minutes


def _resnet18(config):
    config.network.name = "resnet18"


_CIFAR = {"cifar10": lambda config: _cifar(config, 10), "cifar100": lambda config: _cifar(config, 100)}
VARIANTS = (
    {"cifar10-fair": common.fair}
    | common.combined(
        {"digits": common.digits, **_CIFAR}, {"trades_inner": _trades_inner, "beta02": _beta02, "awp": _awp}
    )
    | common.combined(_CIFAR, {"resnet18": _resnet18})
)
