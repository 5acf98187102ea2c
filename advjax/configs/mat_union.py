"""MAT over l_inf, l_2 and l_1 (TIFS 2022): a specialist per norm and a generalist that learns from them.

    python -m experiments.run --config=experiments/configs/mat_union.py:digits --workdir=runs/mat_union-digits
    python -m experiments.run --config=experiments/configs/mat_union.py:cifar10 --workdir=runs/mat_union
    python -m experiments.run --config=experiments/configs/mat_union.py:cifar10-mutual --workdir=runs/mat_union-mutual

Equations, coefficients and recipe are our reconstruction: the paper's body and code were not available. PreAct
ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 at half and three quarters; radii 8/255, 0.5 and 12, ten steps
(five on digits).
A specialist learns from the generalist's, the generalist from the specialists' predictions on the clean images, by
analogy with the framework figure of the single-norm form; `-exchange` is the form in which they exchange adversarial
examples. The generalist is reported. Behind a data set, `-mutual` is the variant without one: three peers, one per norm.
`config.attack` is the l_inf attack, `config.method.l2` and `config.method.l1` are the others.
"""

from advjax import methods
from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10 and cifar100, each also with -exchange or -mutual."""
    config = common.get_config("mat_union")
    config.network.name = "preact_resnet18"
    config.evaluation.protocol = "union"
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config = common.union_digits(config)
    config.attack.steps = 5  # there are six attacks a batch
    return config


def _exchange(config):
    config.method.form = "exchange"


def _mutual(config):
    config.method = {"name": "mat_mutual_union", **methods.defaults("mat_mutual_union")}
    if config.data.name == "digits":
        common.digits_radii(config)


VARIANTS = common.combined(
    {
        "digits": _digits,
        "cifar10": lambda config: common.cifar(config, 10),
        "cifar100": lambda config: common.cifar(config, 100),
    },
    {"exchange": _exchange, "mutual": _mutual},
)
