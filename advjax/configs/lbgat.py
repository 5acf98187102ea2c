"""LBGAT (Cui et al. 2021): the target's logits on adversarial images follow a guide's on clean ones.

    python -m experiments.run --config=experiments/configs/lbgat.py:digits --workdir=runs/lbgat-digits
    python -m experiments.run --config=experiments/configs/lbgat.py:cifar10 --workdir=runs/lbgat

The recipe of `dynat.py`: target WRN-34-10, guide ResNet-18 with stage strides 1, 1, 2, 2; 100 epochs, SGD, weight
decay 2e-4, learning rate 0.02 in epoch 1, 0.1, then 0.01 from epoch 76 and 0.001 from 91; eps 0.031. `cifar10-beta6`
adds TRADES' KL with weight 6.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair and cifar10-beta6."""
    config = common.get_config("lbgat")
    config.epochs = 100
    config.optimizer.weight_decay = 2e-4
    config.schedule.update({"milestones": (0.75, 0.9), "warmup": 0.01, "warmup_factor": 0.2})
    config.network.name = "wrn_34_10"
    config.networks.guide = {"name": "resnet18_lbgat", "width": 0, "mean": (), "std": ()}
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config.networks = {}


def _beta6(config):
    config.method.beta = 6.0
    return common.cifar(config, 10)


_VARIANTS = common.variants(_digits)
VARIANTS = {**_VARIANTS, "cifar10-beta6": _beta6}
