"""Consistency-AT (Tack et al. 2022): two augmentations' adversarial predictions are to agree.

    python -m experiments.run --config=experiments/configs/consistency_at.py:digits --workdir=runs/consistency_at-digits
    python -m experiments.run --config=experiments/configs/consistency_at.py:cifar10 --workdir=runs/consistency_at

The authors' recipe: PreAct ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 at half and three quarters,
AutoAugment and Cutout (here for the whole run). On digits nothing is augmented: the two views are the image itself.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("consistency_at")
    config.network.name = "preact_resnet18"
    config.data.augment = "crop+flip+autoaugment+cutout"
    return common.variant(config, variant, VARIANTS)


VARIANTS = common.variants()
