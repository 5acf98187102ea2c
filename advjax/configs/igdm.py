"""IGDM (Lee et al. 2025): the student's input gradients follow the teacher's, here on AdaAD, ARD or RSLAD.

    python -m experiments.run --config=experiments/configs/igdm.py:digits --workdir=runs/igdm-digits
    python -m experiments.run --config=experiments/configs/igdm.py:cifar10 --workdir=runs/igdm

ResNet-18, 200 epochs, SGD 0.1, weight decay 2e-4 (5e-4 in the paper), x0.1 after 100 and 150, 8/255 in steps of
2/255, which the released scripts swap. Weights for the teacher LTD: 5, on CIFAR-100 15. `cifar10-ard` and
`cifar10-rslad` have these bases, with weights 5 and 0.9. The teacher is trained first (TRADES) unless
`--config.teachers.robust.path=` is given.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax import methods
from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair, cifar10-ard and cifar10-rslad."""
    config = common.get_config("igdm")
    config.optimizer.weight_decay = 2e-4
    return common.variant(config, variant, VARIANTS)


def _cifar100(config):
    config.method.alpha = 15.0


def _base(config, name, alpha):
    config.method.alpha = alpha
    config.method.base = {"name": name, **methods.defaults(name)}
    return common.taught(common.cifar(config, 10), "cifar10", "robust")


VARIANTS = {
    **common.variants(None, _cifar100, teachers=("robust",)),
    "cifar10-ard": lambda config: _base(config, "ard", 5.0),
    "cifar10-rslad": lambda config: _base(config, "rslad", 0.9),
}
