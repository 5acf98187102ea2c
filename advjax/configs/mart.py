"""MART (Wang et al. 2020) with its authors' recipes.

    python -m experiments.run --config=experiments/configs/mart.py:digits --workdir=runs/mart-digits
    python -m experiments.run --config=experiments/configs/mart.py:cifar10 --workdir=runs/mart

ResNet-18: beta (lambda in the paper) 5, 120 epochs, SGD 0.01, weight decay 3.5e-3. `cifar10-wrn_34_10`: beta 6, 90
epochs, SGD 0.1, weight decay 7e-4. Both x0.1 from epochs 75, 90 and 100 on (counted from 1), eps 0.031, step 0.007,
start x + 0.001 N(0, I). `digits` takes the other configs' learning rate and decay, 0.1 and 5e-4.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-wrn_34_10; cifar10-fair."""
    config = common.get_config("mart")
    config.epochs = 120
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 3.5e-3
    config.schedule.milestones = (74 / 120, 89 / 120, 99 / 120)
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config = common.digits(config)
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.schedule.milestones = (0.5, 0.75)
    return config


def _wrn(config):
    config.network.name = "wrn_34_10"
    config.method.beta = 6.0
    config.epochs = 90
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 7e-4
    config.schedule.milestones = (74 / 90, 89 / 90)
    return common.cifar(config, 10)


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
    "cifar10-wrn_34_10": _wrn,
    "cifar10-fair": common.fair,
}
