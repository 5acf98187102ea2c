"""MSD (Maini et al. 2020): multi steepest descent, one PGD that picks the best of three norms in every step.

    python -m experiments.run --config=experiments/configs/msd.py:digits --workdir=runs/msd-digits
    python -m experiments.run --config=experiments/configs/msd.py:cifar10 --workdir=runs/msd

The recipe of Maini et al.: PreAct ResNet-18 without the final BatchNorm and ReLU, 50 epochs, learning rate 0 -> 0.1 ->
0.005 -> 0 at 0, 20, 40 and 50, weight decay 5e-4; radii 0.03 (l_inf), 0.3 (l_2; tested at 0.5) and 12 (l_1).
50 steps from a zero start: 0.003, 0.05 and 1/k.
`config.attack` is the l_inf attack, `config.method.l2` and `config.method.l1` are the others.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = common.union_recipe("msd", steps=50)
    return common.variant(config, variant, VARIANTS)


VARIANTS = {
    "digits": common.union_digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
}
