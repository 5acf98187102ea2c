"""SGLR (arXiv 2403.09101, CVPR 2024): from 45 % of the epochs on, labels are a memory of the network's own predictions.

    python -m experiments.run --config=experiments/configs/sglr.py:digits --workdir=runs/sglr-digits
    python -m experiments.run --config=experiments/configs/sglr.py:cifar10 --workdir=runs/sglr
    python -m experiments.run --config=experiments/configs/sglr.py:cifar10-trades --workdir=runs/sglr-trades

The authors' recipe: ResNet-18, 200 epochs, SGD 0.1, weight decay 5e-4, x0.1 from epochs 100 and 150 on (counted
from 1), es = 90 of 200.
Behind a data set: `-trades` and `-mart` put the memory into TRADES (beta 6) and MART (beta 5), `-awp` adds AWP (gamma
0.01, our choice); `-preact_resnet18` and `-wrn_34_10` are the other networks.
The general form: `--config.method.clean_weight`, `alpha`, `r` and `temperature`; the paper's one known equation is
clean_weight 0, alpha 0, 0 < r < 1.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, each also with -trades, -mart, -awp; CIFAR with two networks; cifar10-fair."""
    config = common.get_config("sglr")
    config.schedule.milestones = (99 / 200, 149 / 200)
    return common.variant(config, variant, VARIANTS)


def _trades(config):
    config.method.base = {"name": "trades", "beta": 6.0, "order": "clean-adv"}
    config.method.one_more = "adv"


def _mart(config):
    config.method.base = {"name": "mart", "beta": 5.0}
    config.method.one_more = "none"


def _awp(config):
    config.method.update({"name": "sglr_awp", "awp_gamma": 0.01, "awp_warmup": 0.0})


def _network(name):
    return lambda config: config.network.update({"name": name})


_CIFAR = {"cifar10": lambda config: common.cifar(config, 10), "cifar100": lambda config: common.cifar(config, 100)}
VARIANTS = (
    {"cifar10-fair": common.fair}
    | common.combined({"digits": common.digits, **_CIFAR}, {"trades": _trades, "mart": _mart, "awp": _awp})
    | common.combined(_CIFAR, {name: _network(name) for name in ("preact_resnet18", "wrn_34_10")})
)
