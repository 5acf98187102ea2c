"""MTARD (ECCV 2022): B-MTARD without the balance of temperatures, both of which stay at 1.

    python -m experiments.run --config=experiments/configs/mtard.py:digits --workdir=runs/mtard-digits
    python -m experiments.run --config=experiments/configs/mtard.py:cifar10 --workdir=runs/mtard \\
        --config.teachers.clean.path=runs/natural --config.teachers.robust.path=runs/trades

Teachers and recipe are those of `bmtard.py`.
"""

from advjax.configs import bmtard, common


def get_config(variant="cifar10"):
    """Variants: those of `bmtard.py`."""
    return common.variant(bmtard.recipe("mtard"), variant, VARIANTS)


VARIANTS = bmtard.VARIANTS
