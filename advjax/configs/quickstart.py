"""The main job in one to two minutes on two CPU cores: teachers, a robust student distilled from them, attacks, a report.

    python -m experiments.run --config=experiments/configs/quickstart.py --workdir=runs/quickstart

B-MTARD at l_inf 0.1 on scikit-learn's digits, a network of three convolutions: a naturally trained and a TRADES teacher
first, then their student; `bmtard:digits` with half the radius, 15 epochs for 30 and five attack steps for ten. The
report has clean, PGD-20 and APGD-CE accuracy. At 0.2, the radius of the other configs for digits, the student is some ten
points less robust than its robust teacher: docs/papers/bmtard.md says why.
"""

from advjax.configs import bmtard


def get_config(variant="digits"):
    """Variants: digits."""
    config = bmtard.get_config(variant)
    for training in (config, config.teachers.clean.train, config.teachers.robust.train):
        training.epochs = 15
        training.attack.update({"eps": "0.1", "steps": 5, "step_size": "0.05"})
    return config


VARIANTS = {"digits": bmtard.VARIANTS["digits"]}
