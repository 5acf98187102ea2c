"""P_1 (Maini et al. 2020): adversarial training against l_1 alone, a baseline for the union of norms.

    python -m experiments.run --config=experiments/configs/p_1.py:digits --workdir=runs/p_1-digits
    python -m experiments.run --config=experiments/configs/p_1.py:cifar10 --workdir=runs/p_1

The recipe of `msd.py`; radius 12, 50 steps of 1/k from a zero start, and one random restart.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = common.union_recipe("p_1", norm="l1", eps="12", steps=50, step_size="1")
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config = common.union_digits(config)
    config.attack.update({"eps": "2", "step_size": "0.4"})
    return config


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
}
