"""RSLAD (Zi et al. 2021): a robust teacher's soft labels in the attack and on clean and adversarial images.

    python -m experiments.run --config=experiments/configs/rslad.py:digits --workdir=runs/rslad-digits
    python -m experiments.run --config=experiments/configs/rslad.py:cifar10 --workdir=runs/rslad

The authors' recipe: ResNet-18, 300 epochs, SGD 0.1, weight decay 2e-4, x0.1 after 215, 260 and 285, loss x10 on
CIFAR-100 (on digits, too: our choice). The teacher is trained first (TRADES) unless `--config.teachers.robust.path=`
is given.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("rslad")
    config.epochs = 300
    config.optimizer.weight_decay = 2e-4
    config.schedule.milestones = common.DROPS
    return common.variant(config, variant, VARIANTS)


def _scaled(config):
    config.method.scale = 10.0


VARIANTS = common.variants(_scaled, _scaled, teachers=("robust",))
