"""PGD-AT (Madry et al. 2018) with the recipe of Rice et al. 2020.

    python -m experiments.run --config=experiments/configs/pgd_at.py:digits --workdir=runs/pgd_at-digits
    python -m experiments.run --config=experiments/configs/pgd_at.py:cifar10 --workdir=runs/pgd_at
    python -m experiments.run --config=experiments/configs/pgd_at.py:imagenet --workdir=runs/pgd_at-imagenet
        --config.data.path=FOLDER_WITH_TRAIN_AND_VAL

PreAct ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 at half and three quarters, attack on batch statistics.
CIFAR-10: crop with a mirrored border; CIFAR-100: its own mean and deviation, crop with a black border, rotation up to 15
degrees. ImageNet: `common.imagenet`, labels smoothed by 0.1, no clean forward after the step.
"""

from advjax.configs import common
from advjax.models.normalisation import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100; cifar10-fair; imagenet (-vit_b_16, -convnext_t)."""
    return common.variant(recipe("pgd_at"), variant, VARIANTS)


def recipe(method):
    """The recipe of Rice et al. for CIFAR-10."""
    config = common.get_config(method)
    config.attack.statistics = "batch"
    config.network.update({"name": "preact_resnet18", "mean": CIFAR10_MEAN, "std": CIFAR10_STD})
    config.data.augment = "reflect_crop_flip"
    return config


def _digits(config):
    config.attack.statistics = "running"
    return common.digits(config)


def _cifar100(config):
    config.network.update({"mean": CIFAR100_MEAN, "std": CIFAR100_STD})
    config.data.augment = "crop+flip+rotate15"
    return common.cifar(config, 100)


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": _cifar100,
    "cifar10-fair": common.fair,
    **common.imagenet_variants("pgd_at", label_smoothing=0.1, clean_statistics=False),
}
