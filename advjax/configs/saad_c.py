"""SAAD-C: SAAD with the teacher's clean predictions where it is sure.

    python -m experiments.run --config=experiments/configs/saad_c.py:digits --workdir=runs/saad_c-digits
    python -m experiments.run --config=experiments/configs/saad_c.py:cifar10 --workdir=runs/saad_c

The authors' recipe: ResNet-18, 200 epochs, SGD 0.1, weight decay 2e-4, x0.1 after 100 and 150; equal mean of the
epoch ends from 95 on. The gradient term weighs 1, on CIFAR-100 10. The teacher is trained first (TRADES) unless
`--config.teachers.robust.path=` is given; a very strong teacher makes a poor student.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("saad_c_swa", swa_start=95 / 200)
    config.optimizer.weight_decay = 2e-4
    return common.variant(config, variant, VARIANTS)


def _cifar100(config):
    config.method.alpha = 10.0
    config.method.beta = 0.5


VARIANTS = common.variants(None, _cifar100, teachers=("robust",))
