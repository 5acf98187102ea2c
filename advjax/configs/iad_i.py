"""IAD-I (Zhu et al. 2022): a robust teacher that is trusted where it is right, the student itself elsewhere.

    python -m experiments.run --config=experiments/configs/iad_i.py:digits --workdir=runs/iad_i-digits
    python -m experiments.run --config=experiments/configs/iad_i.py:cifar10 --workdir=runs/iad_i

The recipe of `ard.py`, as its authors': 200 epochs, SGD 0.1, 0.01 from the middle on, weight decay 2e-4, attack on
batch statistics. Teachers are trained first unless `--config.teachers.NAME.path=` is given.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import ard, common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    return common.variant(ard.recipe("iad_i"), variant, VARIANTS)


VARIANTS = common.variants(ard.on_digits, ard.larger_batch, teachers=("robust",))
