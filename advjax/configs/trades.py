"""TRADES (Zhang et al. 2019) with its authors' recipe: eps 0.031 (not 8/255), step 0.007, start x + 0.001 N(0, I).

    python -m experiments.run --config=experiments/configs/trades.py:digits --workdir=runs/trades-digits
    python -m experiments.run --config=experiments/configs/trades.py:cifar10 --workdir=runs/trades
    python -m experiments.run --config=experiments/configs/trades.py:imagenet --workdir=runs/trades-imagenet
        --config.data.path=FOLDER_WITH_TRAIN_AND_VAL

76 epochs, SGD 0.1, weight decay 2e-4, x0.1 from epoch 75 on (counted from 1). The authors' network is WRN-34-10;
`cifar10-resnet18` trains the ResNet-18 that most comparisons use. `mnist`: eps 0.3, 40 steps of 0.01, beta 1, lr 0.01.
`imagenet`: `common.imagenet`, two forwards (clean, adversarial).
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar10-resnet18, cifar100, mnist; cifar10-fair; imagenet (-vit_b_16, -convnext_t)."""
    config = common.get_config("trades")
    config.network.name = "wrn_34_10"
    config.epochs = 76
    config.optimizer.weight_decay = 2e-4
    config.schedule.milestones = (74 / 76,)
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    config = common.digits(config)
    config.schedule.milestones = (0.5, 0.75)
    return config


def _resnet18(config):
    config.network.name = "resnet18"
    return common.cifar(config, 10)


def _mnist(config):
    config.data.name = "mnist"
    config.data.augment = "none"
    config.network.name = "small_cnn"
    config.method.beta = 1.0
    config.epochs = 100
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 0.0
    config.schedule.milestones = (0.54, 0.74, 0.89)
    config.attack.eps = "0.3"
    config.attack.steps = 40
    config.attack.step_size = "0.01"
    return config


VARIANTS = {
    "digits": _digits,
    "cifar10": lambda config: common.cifar(config, 10),
    "cifar10-resnet18": _resnet18,
    "cifar100": lambda config: common.cifar(config, 100),
    "mnist": _mnist,
    "cifar10-fair": common.fair,
    **common.imagenet_variants("trades", order="clean-adv"),
}
