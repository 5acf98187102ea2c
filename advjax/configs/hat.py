"""HAT (Rade and Moosavi-Dezfooli 2022): TRADES with helper images beyond the ball, labelled by a natural network.

    python -m experiments.run --config=experiments/configs/hat.py:digits --workdir=runs/hat-digits
    python -m experiments.run --config=experiments/configs/hat.py:cifar10 --workdir=runs/hat

The authors' recipe: ResNet-18, 50 epochs, Nesterov SGD, one cycle to 0.21 at a quarter with momentum 0.95 -> 0.85 ->
0.95, weight decay 5e-4. The helper is trained naturally first unless `--config.teachers.helper.path=` is given.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common, natural


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("hat")
    config.epochs = 50
    config.optimizer.update({"learning_rate": 0.21, "momentum": 0.95, "nesterov": True})
    config.schedule.update({"name": "onecycle", "peak_at": 0.25, "low_momentum": 0.85})
    return common.variant(config, variant, VARIANTS)


def _helped(variant, choose):
    def apply(config):
        config = choose(config)
        config.teachers.helper = common.teacher(natural.get_config(variant.removesuffix("-fair")))
        config.teachers.helper.train.epochs = min(config.epochs, 50)
        return config

    return apply


VARIANTS = {name: _helped(name, choose) for name, choose in common.variants(common.plain_course).items()}
