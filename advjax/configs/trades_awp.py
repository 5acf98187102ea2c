"""TRADES-AWP (Wu et al. 2020): TRADES at adversarially perturbed weights, with its authors' recipe.

    python -m experiments.run --config=experiments/configs/trades_awp.py:digits --workdir=runs/trades_awp-digits
    python -m experiments.run --config=experiments/configs/trades_awp.py:cifar10 --workdir=runs/trades_awp

200 epochs, SGD 0.1, weight decay 5e-4, x0.1 from epochs 100 and 150 on (counted from 1); eps 8/255, start x + 0.001
N(0, I); gamma 0.005 from epoch 10 on. WRN-34-10 is the authors' network, `cifar10-resnet18` our choice.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar10-resnet18, cifar100; cifar10-fair."""
    config = common.get_config("trades_awp", order="adv-clean-clean", awp_gamma=0.005, awp_warmup=0.05)
    config.network.name = "wrn_34_10"
    config.schedule.milestones = (99 / 200, 149 / 200)
    config.attack.update({"eps": "8/255", "step_size": "2/255"})
    return common.variant(config, variant, VARIANTS)


def _resnet18(config):
    config.network.name = "resnet18"
    return common.cifar(config, 10)


VARIANTS = {
    "digits": common.digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar10-resnet18": _resnet18,
    "cifar100": lambda config: common.cifar(config, 100),
    "cifar10-fair": common.fair,
}
