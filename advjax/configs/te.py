"""TE (Dong et al. 2022): temporal ensembling, the network's own past predictions against memorised labels.

    python -m experiments.run --config=experiments/configs/te.py:digits --workdir=runs/te-digits
    python -m experiments.run --config=experiments/configs/te.py:cifar10 --workdir=runs/te

The authors' recipe: ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 after 100 and 150; the ensemble begins
with epoch 90.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("te")
    config.schedule.milestones = (0.5, 0.75)
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config.method.weight = 30.0  # with 300, on so few images, the network learns nothing


VARIANTS = common.variants(_digits)
