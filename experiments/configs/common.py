"""Fields that every config has, with their defaults. A config file changes what its method needs.

Numbers that people write as fractions (`eps`, `step_size`) are strings, so that `8/255` is kept as it is.
"""

from typing import Any

from ml_collections import ConfigDict

from advjax.errors import unknown

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def get_config() -> ConfigDict:
    """Defaults: one network, CIFAR-10, PGD-10 at 8/255, SGD with two drops."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 200
    config.batch_size = 128  # over all devices together
    config.devices = 0  # 0: all of this host
    config.precision = "float32"  # or "bfloat16": of activations; parameters, statistics, losses, attack stay float32
    config.batch_norm = "global"  # statistics over the whole batch, or per "device"
    config.init_from = ""  # folder of a finished run, or a weights file, to start from
    config.compilation_cache = "auto"  # keeps compiled programs: in the user's cache directory, a folder, or "off"

    config.method = ConfigDict({"name": "pgd_at"})
    config.network = ConfigDict({"name": "resnet18", "width": 0, "mean": (), "std": ()})  # 0, (): the network's own
    config.networks = ConfigDict()  # another network for a role of the method, e.g. networks.guide
    config.teachers = ConfigDict()  # the method's frozen networks, see `teacher`

    config.data = ConfigDict()
    config.data.name = "cifar10"
    config.data.path = ""  # npz file or folder of shards, image folder; empty: tensorflow-datasets
    config.data.augment = "crop_flip"
    config.data.validation = 1000  # training images held out to choose the best checkpoint; 0: only "last"

    config.attack = ConfigDict()  # threat model, and the inner maximisation of training
    config.attack.norm = "linf"
    config.attack.eps = "8/255"
    config.attack.steps = 10
    config.attack.step_size = "2/255"
    config.attack.start = "uniform"
    config.attack.statistics = "running"  # or "batch": attack on batch statistics, moving the running ones

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay = "all"  # or "kernels"
    config.optimizer.clip_norm = 0.0

    config.schedule = ConfigDict()
    config.schedule.name = "piecewise"
    config.schedule.milestones = (0.5, 0.75)  # fractions of the epochs
    config.schedule.factor = 0.1
    config.schedule.warmup = 0.0
    config.schedule.warmup_factor = 0.0
    config.schedule.peak_at = 0.5

    config.validation = ConfigDict()
    config.validation.every = 1  # epochs
    config.validation.steps = 10  # of PGD with step eps/4

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 0  # keep every n-th epoch for good, beside the last and the best

    config.log = ConfigDict()
    config.log.every_steps = 0  # also within an epoch
    config.log.tensorboard = True

    config.evaluation = ConfigDict()
    config.evaluation.protocol = "quick"
    config.evaluation.batch_size = 0  # images at a time; 0: what suits the machine
    config.evaluation.examples = 0  # the first n test images; 0: all
    config.evaluation.seed = 0
    config.evaluation.surrogate = ""  # network that transfer attacks are crafted on: a teacher's name, a run's folder
    config.evaluation.radii = ConfigDict({"linf": "8/255", "l2": "0.5", "l1": "12"})  # of the protocol union
    return config


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


def cifar(config: ConfigDict, classes: int) -> ConfigDict:
    """CIFAR-10 or CIFAR-100."""
    config.data.name = f"cifar{classes}"
    return config


def teacher(training: ConfigDict, **network: Any) -> ConfigDict:
    """What `config.teachers.NAME` says of a teacher: where it is, or how it is trained first.

    Args:
        training: the config that trains it where no `path` is given; what a teacher shares with its student (data,
            seed, devices, ...) is taken from the student's config.
        **network: its network, in place of the one that `training` names.
    """
    train = training.copy_and_resolve_references()
    chosen = {**train.network.to_dict(), **network}
    shared = ("seed", "devices", "precision", "data", "evaluation", "log", "compilation_cache")
    for field in (*shared, "init_from", "network", "networks", "teachers"):
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


def union_recipe(config: ConfigDict, **method: Any) -> ConfigDict:
    """The recipe of Maini et al. 2020 for a union of norms on CIFAR-10; `method` are the fields of `config.method`."""
    config.method = method
    config.epochs = 50
    config.network.name = "preact_resnet18"
    config.network.final_norm = False
    config.data.augment = "reflect_crop_flip"
    drops = {"name": "piecewise_linear", "milestones": (0.4, 0.8, 1.0), "factor": (1.0, 0.05, 0.0)}
    config.schedule = ConfigDict({**config.schedule.to_dict(), **drops})
    config.attack.update({"eps": "0.03", "step_size": "0.003", "start": "none", "statistics": "batch"})
    config.evaluation.protocol = "union"
    return config


def union_digits(config: ConfigDict) -> ConfigDict:
    """Digits for a union of norms: radii 0.2 (l_inf), 0.8 (l_2) and 2 (l_1), ten steps of a quarter or a fifth.

    20 epochs, and no restart of the attacks, so that it is done in two minutes.
    """
    config = digits(config)
    config.epochs = 20
    config.evaluation.protocol = "quick"
    if "final_norm" in config.network:
        del config.network.final_norm
    config.attack.update({"steps": 10, "statistics": "running"})
    if "restart" in config.method:
        config.method.restart = False
    if "l2" in config.method:
        config.method.l2.update({"eps": "0.8", "step_size": "0.2", "steps": 0})
        config.method.l1.update({"eps": "2", "step_size": "0.4", "steps": 0})
    config.evaluation.radii.update({"linf": "0.2", "l2": "0.8", "l1": "2"})
    return config
