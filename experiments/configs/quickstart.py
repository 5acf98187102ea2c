"""The main job in about a minute on two CPU cores: train robustly on scikit-learn's digits, attack, report.

    python -m experiments.run --config=experiments/configs/quickstart.py --workdir=runs/quickstart

PGD-AT at l_inf 0.2 with a network of three convolutions; the report has clean and PGD-20 accuracy.
"""

from experiments.configs import pgd_at


def get_config(variant="digits"):
    """Variants: digits."""
    return pgd_at.get_config(variant)


VARIANTS = {"digits": pgd_at.VARIANTS["digits"]}
