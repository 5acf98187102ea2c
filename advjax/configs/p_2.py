"""P_2 (Maini et al. 2020): adversarial training against l_2 alone, a baseline for the union of norms.

    python -m experiments.run --config=experiments/configs/p_2.py:digits --workdir=runs/p_2-digits
    python -m experiments.run --config=experiments/configs/p_2.py:cifar10 --workdir=runs/p_2

The recipe of `msd.py`; radius 0.5, 50 steps of 0.05 from a zero start, no restart.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = common.union_recipe("p_2", norm="l2", eps="0.5", steps=50, step_size="0.05")
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config = common.union_digits(config)
    config.attack.update({"eps": "0.8", "step_size": "0.2"})
    return config


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
}
