"""CIARD: a clean teacher that is kept at bay where it is wrong, and a robust teacher that learns on.

    python -m experiments.run --config=experiments/configs/ciard.py:digits --workdir=runs/ciard-digits
    python -m experiments.run --config=experiments/configs/ciard.py:cifar10 --workdir=runs/ciard

The authors' recipe: ResNet-18, 300 epochs, SGD 0.1, weight decay 2e-4, a half cosine from the middle on (its further
factor, at least 0.99, is left out). Teachers are trained first unless `--config.teachers.NAME.path=` is given.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("ciard")
    config.epochs = 300
    config.optimizer.weight_decay = 2e-4
    config.schedule.update({"name": "cosine", "warmup": 0.5, "warmup_factor": 1.0})
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config.method.temperature_rate = 0.05  # there are 300 steps where CIFAR-10 has 117,300


VARIANTS = common.variants(_digits, teachers=("clean", "robust"))
