"""P_inf (Maini et al. 2020): adversarial training against l_inf alone, a baseline for the union of norms.

    python -m experiments.run --config=experiments/configs/p_inf.py:digits --workdir=runs/p_inf-digits
    python -m experiments.run --config=experiments/configs/p_inf.py:cifar10 --workdir=runs/p_inf

The recipe of `msd.py`; radius 0.03, 40 steps of 0.003 from a zero start, no restart.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = common.union_recipe("p_inf", steps=40)
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config = common.union_digits(config)
    config.attack.update({"eps": "0.2", "step_size": "0.05"})
    return config


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
}
