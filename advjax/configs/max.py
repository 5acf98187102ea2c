"""MAX (Tramer and Boneh 2019, as Maini et al. 2020 run it): per example the worst of three norms' adversarial examples.

    python -m experiments.run --config=experiments/configs/max.py:digits --workdir=runs/max-digits
    python -m experiments.run --config=experiments/configs/max.py:cifar10 --workdir=runs/max

The recipe of Maini et al.: PreAct ResNet-18 without the final BatchNorm and ReLU, 50 epochs, learning rate 0 -> 0.1 ->
0.005 -> 0 at 0, 20, 40 and 50, weight decay 5e-4; radii 0.03 (l_inf), 0.3 (l_2; tested at 0.5) and 12 (l_1).
Steps: l_inf 40 of 0.005, l_2 50 of 0.05, l_1 50 of 1/k, from a zero start; l_1's has one random restart.
`config.attack` is the l_inf attack, `config.method.l2` and `config.method.l1` are the others.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = common.union_recipe("max", steps=40, step_size="0.005")
    return common.variant(config, variant, VARIANTS)


VARIANTS = {
    "digits": common.union_digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
}
