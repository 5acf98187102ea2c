"""AT with label smoothing: PGD-AT against labels that keep 0.9 of their mass.

    python -m experiments.run --config=experiments/configs/at_ls.py:digits --workdir=runs/at_ls-digits
    python -m experiments.run --config=experiments/configs/at_ls.py:cifar10 --workdir=runs/at_ls

The recipe of `pgd_at.py`; the smoothing of 0.1 is our choice.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common
from advjax.models.normalisation import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("pgd_at", label_smoothing=0.1)
    config.attack.statistics = "batch"
    config.network.update({"name": "preact_resnet18", "mean": CIFAR10_MEAN, "std": CIFAR10_STD})
    config.data.augment = "reflect_crop_flip"
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config.attack.statistics = "running"


def _cifar100(config):
    config.network.update({"mean": CIFAR100_MEAN, "std": CIFAR100_STD})


VARIANTS = common.variants(_digits, _cifar100)
