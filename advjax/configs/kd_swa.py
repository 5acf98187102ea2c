"""KD+SWA (Chen et al. 2021): soft labels of a naturally and a robustly trained teacher, weights averaged.

    python -m experiments.run --config=experiments/configs/kd_swa.py:digits --workdir=runs/kd_swa-digits
    python -m experiments.run --config=experiments/configs/kd_swa.py:cifar10 --workdir=runs/kd_swa

The authors' recipe: PreAct ResNet-18, 5,000 images held out, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 at 50 and
150, attack on batch statistics; averaging begins with epoch 56. Teachers are trained first unless
`--config.teachers.NAME.path=` is given.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common
from advjax.models.normalisation import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("kd_swa", swa_start=56 / 200)
    config.schedule.milestones = (0.25, 0.75)
    config.attack.statistics = "batch"
    config.network.update({"name": "preact_resnet18", "mean": CIFAR10_MEAN, "std": CIFAR10_STD})
    config.data.validation = 5000
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config.attack.statistics = "running"


def _cifar100(config):
    config.network.update({"mean": CIFAR100_MEAN, "std": CIFAR100_STD})


VARIANTS = common.variants(_digits, _cifar100, teachers=("clean", "robust"))
