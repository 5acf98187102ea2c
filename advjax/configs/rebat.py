"""ReBAT (Wang et al. 2023): a smaller drop of the rate, and a pull to the average of the weights after it.

    python -m experiments.run --config=experiments/configs/rebat.py:digits --workdir=runs/rebat-digits
    python -m experiments.run --config=experiments/configs/rebat.py:cifar10 --workdir=runs/rebat

The authors' recipe: that of `pgd_at.py`, learning rate /1.5 at half and three quarters. `cifar10-plus` is ReBAT++:
from half on 10/255 and 12 steps, rate /1.7.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common
from advjax.models.normalisation import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair and cifar10-plus."""
    config = common.get_config("rebat")
    config.attack.statistics = "batch"
    config.network.update({"name": "preact_resnet18", "mean": CIFAR10_MEAN, "std": CIFAR10_STD})
    config.data.augment = "reflect_crop_flip"
    config.schedule.factor = 1 / 1.5
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config.attack.statistics = "running"


def _cifar100(config):
    config.network.update({"mean": CIFAR100_MEAN, "std": CIFAR100_STD})


def _plus(config):
    config.method.late_steps = 12
    config.schedule.factor = 1 / 1.7
    return common.cifar(config, 10)


VARIANTS = {**common.variants(_digits, _cifar100), "cifar10-plus": _plus}
