"""The main job in about a minute on two CPU cores: teachers, a robust student distilled from them, attacks, a report.

    python -m experiments.run --config=experiments/configs/quickstart.py --workdir=runs/quickstart

B-MTARD at l_inf 0.2 on scikit-learn's digits, a network of three convolutions: a naturally trained and a TRADES teacher
first, then their student; `bmtard:digits` in fewer epochs. The report has clean, PGD-20 and APGD-CE accuracy.
"""

from experiments.configs import bmtard


def get_config(variant="digits"):
    """Variants: digits."""
    config = bmtard.get_config(variant)
    config.epochs = 20
    for teacher in config.teachers.values():
        teacher.train.epochs = 20
    return config


VARIANTS = {"digits": bmtard.VARIANTS["digits"]}
