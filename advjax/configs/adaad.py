"""AdaAD (Huang et al. 2023): the attack searches where student and teacher disagree, and both answer there.

    python -m experiments.run --config=experiments/configs/adaad.py:digits --workdir=runs/adaad-digits
    python -m experiments.run --config=experiments/configs/adaad.py:cifar10 --workdir=runs/adaad

The authors' recipe: ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 at half and three quarters; the KL is a
mean over the elements on CIFAR-10, over the batch on CIFAR-100 (on digits, too: our choice). The teacher is trained
first (TRADES) unless `--config.teachers.robust.path=` is given.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("adaad")
    config.schedule.milestones = (0.5, 0.75)
    return common.variant(config, variant, VARIANTS)


def _batch_mean(config):
    config.method.reduction = "batch"


VARIANTS = common.variants(_batch_mean, _batch_mean, teachers=("robust",))
