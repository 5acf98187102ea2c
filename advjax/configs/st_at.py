"""ST-AT (Li et al. 2023): squeeze training, between the most and the least adversarial points on the way.

    python -m experiments.run --config=experiments/configs/st_at.py:digits --workdir=runs/st_at-digits
    python -m experiments.run --config=experiments/configs/st_at.py:cifar10 --workdir=runs/st_at

The authors' recipe: ResNet-18, 120 epochs, SGD 0.1, weight decay 5e-4, x0.1 from epochs 80 and 100 on (counted from
1). beta is our choice: it is not in the code.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("st_at")
    config.epochs = 120
    config.schedule.milestones = (79 / 120, 99 / 120)
    return common.variant(config, variant, VARIANTS)


VARIANTS = common.variants()
