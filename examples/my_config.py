"""A config of one's own: `python -m experiments.run --config=my_config.py:digits --workdir=runs/ard`."""

from advjax import runs
from advjax.configs import common, trades


def get_config(variant="digits"):
    """Variants: digits."""
    config = runs.default("my_method:ARD", temperature=5.0)
    config = common.variant(config, variant, {"digits": common.digits})
    config.epochs = 10
    config.teachers.robust = common.teacher(trades.get_config("digits"))
    config.teachers.robust.train.epochs = 10
    return config
