"""FAT for TRADES (Zhang et al. 2020): the KL attack stops a few steps after it succeeds.

    python -m experiments.run --config=experiments/configs/fat_trades.py:digits --workdir=runs/fat_trades-digits
    python -m experiments.run --config=experiments/configs/fat_trades.py:cifar10 --workdir=runs/fat_trades

The authors' network and length: WRN-34-10, 85 epochs, eps 0.031; x0.1 from epoch 75 on and weight decay 2e-4 are our
choice, after TRADES.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("fat_trades")
    config.network.name = "wrn_34_10"
    config.epochs = 85
    config.optimizer.weight_decay = 2e-4
    config.schedule.milestones = (74 / 85,)
    return common.variant(config, variant, VARIANTS)


VARIANTS = common.variants(common.plain_course)
