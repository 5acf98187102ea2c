"""Natural training, no attack: what every robust method is compared with, and the clean teacher of B-MTARD.

    python -m experiments.run --config=experiments/configs/natural.py:digits --workdir=runs/natural-digits
    python -m experiments.run --config=experiments/configs/natural.py:cifar10 --workdir=runs/natural

SGD 0.1, weight decay 5e-4, 200 epochs, cosine schedule: our choice, no paper prescribes one.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100; cifar10-fair."""
    config = common.get_config("natural")
    config.schedule.name = "cosine"
    return common.variant(config, variant, VARIANTS)


VARIANTS = {
    "digits": common.digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
    "cifar10-fair": common.fair,
}
