"""FGSM-RS, fast adversarial training (Wong et al. 2020): one step of 1.25 eps from a random start, 15 epochs.

    python -m experiments.run --config=experiments/configs/fgsm_rs.py:digits --workdir=runs/fgsm_rs-digits
    python -m experiments.run --config=experiments/configs/fgsm_rs.py:cifar10 --workdir=runs/fgsm_rs

PreAct ResNet-18 with shortcuts from the raw input, learning rate 0 -> 0.2 -> 0 linearly, momentum 0.9 -> 0.8 -> 0.9
with it, weight decay 5e-4.
"""

from advjax.configs import common
from advjax.models.normalisation import CIFAR10_MEAN, CIFAR10_STD


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100."""
    config = common.get_config("fgsm_rs")
    config.network.update({"name": "preact_resnet18", "mean": CIFAR10_MEAN, "std": CIFAR10_STD})
    config.network.shortcut_from = "raw"
    config.epochs = 15
    config.optimizer.learning_rate = 0.2
    config.schedule.update({"name": "cyclic", "low_momentum": 0.8})
    config.attack.statistics = "batch"
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config = common.digits(config)
    del config.network.shortcut_from
    config.attack.step_size = "0.25"
    return config


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar100": lambda config: common.cifar(config, 100),
}
