"""RPAT: adversarial training that asks for a linear course between an image and its adversarial example.

    python -m experiments.run --config=experiments/configs/rpat.py:digits --workdir=runs/rpat-digits
    python -m experiments.run --config=experiments/configs/rpat.py:cifar10 --workdir=runs/rpat

The recipe of the base, PGD-AT's learning rates (our choice): ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1
at half and three quarters.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("rpat")
    config.schedule.milestones = (0.5, 0.75)
    return common.variant(config, variant, VARIANTS)


VARIANTS = common.variants()
