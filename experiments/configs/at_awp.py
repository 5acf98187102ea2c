"""AT-AWP (Wu et al. 2020): PGD-AT with its recipe, at adversarially perturbed weights.

    python -m experiments.run --config=experiments/configs/at_awp.py:digits --workdir=runs/at_awp-digits
    python -m experiments.run --config=experiments/configs/at_awp.py:cifar10 --workdir=runs/at_awp

gamma 0.01, from the first epoch on.
"""

from experiments.configs import pgd_at


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = pgd_at.get_config(variant)
    config.method.update({"name": "pgd_at_awp", "awp_gamma": 0.01, "awp_warmup": 0.0})
    return config


VARIANTS = pgd_at.VARIANTS
