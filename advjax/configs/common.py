"""What the configs share: the data sets' variants, teachers, the recipe for a union of norms.

A config file names its method, `advjax.runs.default(NAME)`, which gives all fields with their defaults
(`advjax.runs.schema`), and changes what its recipe needs. Numbers that people write as fractions (`eps`, `step_size`)
are strings, so that `8/255` is kept as it is.
"""

from typing import Any

from ml_collections import ConfigDict

from advjax import runs
from advjax.errors import unknown
from advjax.models.normalisation import IMAGENET_MEAN, IMAGENET_STD
from advjax.runs.schema import SHARED

get_config = runs.default


def digits(config: ConfigDict) -> ConfigDict:
    """scikit-learn's embedded digits with a tiny network at l_inf 0.2: seconds an epoch on two CPU cores."""
    config.data.name = "digits"
    config.data.augment = "none"
    config.data.validation = 200
    config.network.update({"name": "tiny_cnn", "mean": (), "std": ()})
    config.attack.eps = "0.2"
    config.attack.step_size = "0.05"
    config.batch_size = 128
    config.epochs = 30
    return config


def plain_course(config: ConfigDict) -> None:
    """SGD 0.1, momentum 0.9, weight decay 5e-4, x0.1 at half and three quarters: where a recipe does not fit digits."""
    config.optimizer.update({"learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4})
    config.schedule = get_config().schedule


def cifar(config: ConfigDict, classes: int) -> ConfigDict:
    """CIFAR-10 or CIFAR-100."""
    config.data.name = f"cifar{classes}"
    return config


DROPS = (215 / 300, 260 / 300, 285 / 300)


def fair(config: ConfigDict) -> ConfigDict:
    """The recipe under which all methods are compared: ResNet-18, CIFAR-10, 8/255, steps of 2/255, B-MTARD's course."""
    config.data.update({"name": "cifar10", "augment": "crop_flip"})
    config.data.extra.ratio = 0.0
    config.network = {"name": "resnet18", "width": 0, "mean": (), "std": ()}
    config.networks = {}
    config.epochs, config.batch_size = 300, 128
    config.optimizer.update({"learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 2e-4})
    config.schedule = {**get_config().schedule.to_dict(), "milestones": DROPS}
    config.attack.update({"eps": "8/255", "step_size": "2/255", "steps": 10})
    if config.attack.statistics == "batch":
        config.attack.statistics = "running"
    return config


def taught(config: ConfigDict, variant: Any, *roles: str) -> ConfigDict:
    """The config with the teachers `roles`, trained first by the variant of `natural` and `trades` unless given."""
    from advjax.configs import natural, trades

    made = {"clean": natural, "robust": trades}
    for role in roles:
        config.teachers[role] = teacher(made[role].get_config(variant))
    return config


def variants(digits_: Any = None, cifar100: Any = None, teachers: tuple[str, ...] = (), **more: Any) -> dict:
    """The variants that most methods have: digits, cifar10, cifar100 and cifar10-fair.

    Args:
        digits_: what is changed on digits beyond `digits`.
        cifar100: what is changed on CIFAR-100.
        teachers: roles of the method's teachers.
        **more: further variants.
    """

    def made(of: str, choose: Any, *changes: Any) -> Any:
        def apply(config: ConfigDict) -> ConfigDict:
            config = choose(config)
            for change in changes:
                if change:
                    change(config)
            return taught(config, of, *teachers)

        return apply

    return {
        "digits": made("digits", digits, digits_),
        "cifar10": made("cifar10", lambda config: cifar(config, 10)),
        "cifar100": made("cifar100", lambda config: cifar(config, 100), cifar100),
        "cifar10-fair": made("cifar10", fair),
        **more,
    }


def teacher(training: ConfigDict, **network: Any) -> ConfigDict:
    """What `config.teachers.NAME` says of a teacher: where it is, or how it is trained first.

    Args:
        training: the config that trains it where no `path` is given; what a teacher shares with its student (data,
            seed, devices, ...) is taken from the student's config.
        **network: its network, in place of the one that `training` names.
    """
    train = training.copy_and_resolve_references()
    chosen = {**train.network.to_dict(), **network}
    for field in ("seed", *SHARED, "init_from", "network", "networks", "teachers"):
        del train[field]
    return ConfigDict({"path": "", "checkpoint": "best", "member": "", "network": chosen, "train": train})


def variant(config: ConfigDict, name: str, variants: dict) -> ConfigDict:
    """Applies the variant's function to the config.

    Raises:
        InputError: no variant has that name.
    """
    if name not in variants:
        raise unknown("variant of this config", name, variants)
    return variants[name](config)


def combined(data: dict, options: dict) -> dict:
    """Variants `DATA` and `DATA-OPTION`: the data set's function, which returns the config, then the option's."""

    def both(choose, change):
        def apply(config):
            config = choose(config)
            change(config)
            return config

        return apply

    pairs = {f"{name}-{option}": both(data[name], options[option]) for name in data for option in options}
    return {**data, **pairs}


# Networks that robust ImageNet training uses, with its stems.
IMAGENET_NETWORKS: dict[str, dict[str, Any]] = {
    "resnet50": {"stem": "imagenet"},
    "vit_b_16": {},
    "convnext_t": {"stem": "conv"},
}


def imagenet(method: str, network: str, **hyperparameters: Any) -> ConfigDict:
    """ImageNet at l_inf 4/255 with the method's average of the weights, `METHOD_ema`: 224 x 224, streamed, in bfloat16.

    The attack is Salman et al.'s (2020) for ImageNet: three steps of 2/3 eps. Singh et al. (2023) train with AdamW, a
    cosine with warm-up, an average of 0.9999 and convolutional stems, and score 5,000 images, as RobustBench does. That
    both meet in one recipe, its length, batch size and rate are our choice. Training images are random resized crops,
    mirrored; the others are resized to 256 and cropped to 224 at the centre.
    """
    config = get_config(f"{method}_ema", **hyperparameters, ema_decay=0.9999, ema_warmup=True)
    config.data.update({"name": "imagenet2012", "image_size": 224, "resize": 256, "crop": "random", "augment": "flip"})
    given = {"width": 0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, **IMAGENET_NETWORKS[network]}
    config.network = {"name": network, **given}
    config.update({"epochs": 100, "batch_size": 1024, "precision": "bfloat16"})
    config.optimizer.update({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "decay": "kernels"})
    config.schedule.update({"name": "cosine", "warmup": 0.1})
    config.attack.update({"eps": "4/255", "step_size": "8/765", "steps": 3})
    config.evaluation.examples = 5000
    return config


def imagenet_variants(method: str, **hyperparameters: Any) -> dict:
    """The variant `imagenet`, of ResNet-50, and one for each other network, `imagenet-NETWORK`."""

    def of(network: str) -> Any:
        return lambda _: imagenet(method, network, **hyperparameters)

    names = {network: f"imagenet-{network}" for network in IMAGENET_NETWORKS}
    return {{"resnet50": "imagenet"}.get(network, name): of(network) for network, name in names.items()}


def union_recipe(method: str, **attack: Any) -> ConfigDict:
    """The recipe of Maini et al. 2020 for a union of norms on CIFAR-10; `attack` are fields of `config.attack`."""
    config = get_config(method)
    config.epochs = 50
    config.network.name = "preact_resnet18"
    config.network.final_norm = False
    config.data.augment = "reflect_crop_flip"
    config.schedule.update({"name": "piecewise_linear", "milestones": (0.4, 0.8, 1.0), "first_epoch": 1})
    with config.schedule.ignore_type():
        config.schedule.factor = (1.0, 0.05, 0.0)
    config.attack.update({"eps": "0.03", "step_size": "0.003", "start": "none", "statistics": "batch", **attack})
    config.evaluation.protocol = "union"
    return config


def union_digits(config: ConfigDict) -> ConfigDict:
    """Digits for a union of norms: radii 0.2 (l_inf), 0.8 (l_2) and 2 (l_1), ten steps of a quarter or a fifth.

    20 epochs, and no restart of the l_1 attack, so that it is done in two minutes.
    """
    config = digits(config)
    config.epochs = 20
    config.evaluation.protocol = "quick"
    if "final_norm" in config.network:
        del config.network.final_norm
    config.attack.update({"steps": 10, "statistics": "running"})
    if "restart" in config.method:
        config.method.restart = False
    digits_radii(config)
    config.evaluation.radii.update({"linf": "0.2", "l2": "0.8", "l1": "2"})
    return config


def digits_radii(config: ConfigDict) -> None:
    """The radii and steps of l_2 and l_1 on digits, where a method has them."""
    if "l2" in config.method:
        config.method.l2.update({"eps": "0.8", "step_size": "0.2", "steps": 0})
        config.method.l1.update({"eps": "2", "step_size": "0.4", "steps": 0})
