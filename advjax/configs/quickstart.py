"""The main job in one to two minutes on two CPU cores: teachers, a robust student distilled from them, attacks, a report.

    python -m experiments.run --config=experiments/configs/quickstart.py --workdir=runs/quickstart

B-MTARD at l_inf 0.2 on scikit-learn's digits, a network of three convolutions: a naturally trained and a TRADES teacher
first, then their student; `bmtard:digits` with 15 epochs for 30 and five attack steps for ten. The report has clean,
PGD-20 and APGD-CE accuracy.
"""

from advjax.configs import bmtard


def get_config(variant="digits"):
    """Variants: digits."""
    config = bmtard.get_config(variant)
    for training in (config, config.teachers.clean.train, config.teachers.robust.train):
        training.epochs = 15
        training.attack.update({"steps": 5, "step_size": "0.1"})
    return config


VARIANTS = {"digits": bmtard.VARIANTS["digits"]}
