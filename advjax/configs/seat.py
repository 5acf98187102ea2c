"""SEAT (Wang and Wang 2022): self-ensemble adversarial training, the average of the weights over the steps.

    python -m experiments.run --config=experiments/configs/seat.py:digits --workdir=runs/seat-digits
    python -m experiments.run --config=experiments/configs/seat.py:cifar10 --workdir=runs/seat

The authors' recipe: ResNet-18, 120 epochs, weight decay 3.5e-3, learning rate 0.01 to epoch 40, falling linearly to
0.001 at 80 and 0.0001 at 120, eps 0.031.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("seat")
    config.epochs = 120
    config.optimizer.update({"learning_rate": 0.01, "weight_decay": 3.5e-3})
    config.schedule.update({"name": "piecewise_linear", "milestones": (1e-6, 40 / 120, 80 / 120, 1.0)})
    with config.schedule.ignore_type():
        config.schedule.factor = (1.0, 1.0, 0.1, 0.01)
    return common.variant(config, variant, VARIANTS)


VARIANTS = common.variants(common.plain_course)
