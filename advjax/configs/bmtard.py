"""B-MTARD (arXiv 2306.16170): a student of a clean and a robust teacher, whose influences are balanced all the time.

    python -m experiments.run --config=experiments/configs/bmtard.py:digits --workdir=runs/bmtard-digits
    python -m experiments.run --config=experiments/configs/bmtard.py:cifar10 --workdir=runs/bmtard \\
        --config.teachers.clean.path=runs/natural --config.teachers.robust.path=runs/trades

A teacher is the folder of a finished run, or a weights file with the name of its architecture or of a published network:
`--config.teachers.robust.path=model.pt --config.teachers.robust.network.name=trades_wrn_34_10`. One whose path is not
given is trained first, in the folder `teachers` of the workdir: natural training and TRADES, on CIFAR-10 a ResNet-56 and
a WRN-34-10, on CIFAR-100 a WRN-22-6 and a WRN-70-16 (weeks on one GPU: bring that one).

The authors' recipe: ResNet-18 (or `-mobilenet_v2`), 300 epochs, SGD 0.1, weight decay 2e-4, x0.1 after 215, 260 and 285
(the balances' rates too), loss x10 on CIFAR-100. `tiny_imagenet` (`--config.data.path=tiny-imagenet-200`) is our
choice: PreAct ResNet-34 teachers, PreAct ResNet-18, 100 epochs, drops at 75 and 90, batch 32, loss x10. So are, on
digits, a temperature rate of 0.05 and a loss x10, since there are 300 steps where CIFAR-10 has 117,300.

The best checkpoint is that of the largest mean of clean and robust accuracy, which the method is judged by (W-Robust).

The ablation: `--config.method.temperature_balance=False`, `--config.method.loss_balance=False`, or both.
"""

from advjax.configs import common, natural, trades
from advjax.models.normalisation import CIFAR100_MEAN, CIFAR100_STD

DROPS = (215 / 300, 260 / 300, 285 / 300)
CIFAR100 = {"mean": CIFAR100_MEAN, "std": CIFAR100_STD}


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100 and tiny_imagenet, all but the first also with -mobilenet_v2; cifar10-fair."""
    return common.variant(recipe("bmtard"), variant, VARIANTS)


def recipe(method):
    """The authors' optimisation."""
    config = common.get_config(method)
    config.epochs = 300
    config.optimizer.weight_decay = 2e-4
    config.schedule.milestones = DROPS
    return config


def _digits(config):
    config = common.digits(config)
    config.method.scale = 10.0
    config.method.temperature_rate = 0.05
    config.teachers.clean = common.teacher(natural.get_config("digits"))
    config.teachers.robust = common.teacher(trades.get_config("digits"))
    return config


def _cifar10(config):
    config.teachers.clean = common.teacher(natural.get_config("cifar10"), name="resnet56")
    config.teachers.robust = common.teacher(trades.get_config("cifar10"))
    return common.cifar(config, 10)


def _cifar100(config):
    config.method.scale = 10.0
    config.teachers.clean = common.teacher(natural.get_config("cifar100"), name="wrn_22_6_swish", **CIFAR100)
    config.teachers.robust = common.teacher(trades.get_config("cifar100"), name="wrn_70_16_swish", **CIFAR100)
    return common.cifar(config, 100)


def _tiny_imagenet(config):
    config.data.name = "image_folder"
    config.network.name = "preact_resnet18"
    config.epochs, config.batch_size = 100, 32
    config.schedule.milestones = config.method.milestones = (0.75, 0.9)
    config.method.scale = 10.0
    for role, training in (("clean", natural.get_config("cifar10")), ("robust", trades.get_config("cifar10"))):
        training.epochs = 100
        training.schedule.milestones = (0.75, 0.9)
        config.teachers[role] = common.teacher(training, name="preact_resnet34")
    return config


def _mobilenet_v2(config):
    config.network.name = "mobilenet_v2"


VARIANTS = {
    "digits": _digits,
    "cifar10-fair": lambda config: common.taught(common.fair(config), "cifar10", "clean", "robust"),
    **common.combined(
        {"cifar10": _cifar10, "cifar100": _cifar100, "tiny_imagenet": _tiny_imagenet}, {"mobilenet_v2": _mobilenet_v2}
    ),
}
