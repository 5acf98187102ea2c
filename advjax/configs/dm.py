"""DM (Wang et al. 2023): TRADES with label smoothing, attacked on resting batch statistics, parameters averaged.

    python -m experiments.run --config=experiments/configs/dm.py:digits --workdir=runs/dm-digits
    python -m experiments.run --config=experiments/configs/dm.py:cifar10 --workdir=runs/dm

The authors' recipe: WRN-28-10 with Swish, 400 epochs, batch 512, Nesterov SGD, one cycle to 0.2 at 2.5 %, weight
decay 5e-4, EMA 0.995. Their generated images are not part of it here: without them it is a recipe, not their result.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("dm_ema", ema_decay=0.995, ema_warmup=True, ema_start=11 / 400, ema_statistics="copy")
    config.epochs, config.batch_size = 400, 512
    config.network.name = "wrn_28_10_swish"
    config.optimizer.update({"learning_rate": 0.2, "momentum": 0.95, "nesterov": True, "decay": "kernels"})
    config.schedule.update({"name": "onecycle", "peak_at": 0.025, "low_momentum": 0.85})
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    common.plain_course(config)
    config.optimizer.decay = "all"


VARIANTS = common.variants(_digits)
