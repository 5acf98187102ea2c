"""ARD (Goldblum et al. 2020): a robust teacher's soft labels on clean images, learnt on adversarial ones.

    python -m experiments.run --config=experiments/configs/ard.py:digits --workdir=runs/ard-digits
    python -m experiments.run --config=experiments/configs/ard.py:cifar10 --workdir=runs/ard

The authors' recipe: ResNet-18, 200 epochs, SGD 0.1, 0.01 from the middle on, weight decay 2e-4, batch 128 (CIFAR-100:
256), attack on batch statistics. The teacher is trained first (TRADES) unless `--config.teachers.robust.path=` is
given. On digits T is 5.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    return common.variant(recipe("ard"), variant, VARIANTS)


def recipe(method):
    """The authors' optimisation, which IAD's have, too."""
    config = common.get_config(method)
    config.optimizer.weight_decay = 2e-4
    config.schedule.milestones = (0.5,)
    config.attack.statistics = "batch"
    return config


def on_digits(config):
    """Attacks on running statistics, as everywhere on digits."""
    config.attack.statistics = "running"


def larger_batch(config):
    """Of CIFAR-100."""
    config.batch_size = 256


def _digits(config):
    on_digits(config)
    config.method.temperature = 5.0


VARIANTS = common.variants(_digits, larger_batch, teachers=("robust",))
