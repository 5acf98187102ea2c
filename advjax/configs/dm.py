"""DM (Wang et al. 2023): TRADES with label smoothing, attacked on resting batch statistics, parameters averaged.

    python -m experiments.run --config=experiments/configs/dm.py:digits --workdir=runs/dm-digits
    python -m experiments.run --config=experiments/configs/dm.py:cifar10 --workdir=runs/dm --config.data.extra.path=1m.npz

The authors' recipe: WRN-28-10 with Swish, 400 epochs, batch 512, Nesterov SGD, one cycle to 0.2 at 2.5 %, weight
decay 5e-4, EMA 0.995; 70 % of every batch are generated images with the labels that they were generated for. These are
not part of this package: `1m.npz` is the file that the authors publish for the data set, with arrays `image` and `label`.
Without it the report says so in its warnings: it is a recipe then, not their result.
Variant `cifar10-fair` has the one recipe under which all methods are compared, without extra images.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("dm_ema", ema_decay=0.995, ema_warmup=True, ema_start=11 / 400, ema_statistics="copy")
    config.epochs, config.batch_size = 400, 512
    config.network.name = "wrn_28_10_swish"
    config.optimizer.update({"learning_rate": 0.2, "momentum": 0.95, "nesterov": True, "decay": "kernels"})
    config.data.extra.ratio = 0.7
    config.schedule.update({"name": "onecycle", "peak_at": 0.025, "low_momentum": 0.85})
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    common.plain_course(config)
    config.optimizer.decay = "all"
    config.data.extra.ratio = 0.0


VARIANTS = common.variants(_digits)
