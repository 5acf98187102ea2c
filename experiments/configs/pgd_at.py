"""PGD-AT (Madry et al. 2018) with the recipe of Rice et al. 2020.

python -m experiments.run --config=experiments/configs/pgd_at.py:digits --workdir=runs/pgd_at-digits
python -m experiments.run --config=experiments/configs/pgd_at.py:cifar10 --workdir=runs/pgd_at
"""

from experiments.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = common.get_config()
    config.method = {"name": "pgd_at", "label_smoothing": 0.0, "clean_statistics": True}
    config.attack.statistics = "batch"
    config.network.update({"name": "preact_resnet18", "mean": common.CIFAR10_MEAN, "std": common.CIFAR10_STD})
    config.data.augment = "reflect_crop_flip"
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config.attack.statistics = "running"
    return common.digits(config)


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
}
