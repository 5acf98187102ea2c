"""RAMP (Jiang and Singh 2024): l_inf and l_1 at once, with a pairing of predictions and a projected gradient.

    python -m experiments.run --config=experiments/configs/ramp.py:digits --workdir=runs/ramp-digits
    python -m experiments.run --config=experiments/configs/ramp.py:cifar10 --workdir=runs/ramp

The authors' recipe: PreAct ResNet-18 (here with ReLU, not softplus), 80 epochs, SGD 0.05, weight decay 5e-4, x0.1
after 70; l_inf 8/255 and l_1 12, tested on the union with l_2 0.5.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("ramp")
    config.network.name = "preact_resnet18"
    config.epochs = 80
    config.optimizer.learning_rate = 0.05
    config.schedule.milestones = (70 / 80,)
    config.evaluation.protocol = "union"
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    common.plain_course(config)
    config.method.l1_eps = "2"
    config.evaluation.protocol = "quick"
    config.evaluation.radii.update({"linf": "0.2", "l2": "0.8", "l1": "2"})


VARIANTS = common.variants(_digits)
