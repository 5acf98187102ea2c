"""AT-AWP (Wu et al. 2020): PGD-AT with its recipe, at adversarially perturbed weights.

    python -m experiments.run --config=experiments/configs/at_awp.py:digits --workdir=runs/at_awp-digits
    python -m experiments.run --config=experiments/configs/at_awp.py:cifar10 --workdir=runs/at_awp

gamma 0.01, from the first epoch on.
"""

from advjax.configs import common, pgd_at


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    return common.variant(pgd_at.recipe("pgd_at_awp"), variant, VARIANTS)


VARIANTS = pgd_at.VARIANTS
