"""What a config says: every field once, with its default, its type, its range and a sentence about it.

    config = advjax.runs.default("trades")      # an ml_collections ConfigDict, to be changed at will
    config.attack.eps = "8/255"
    advjax.runs.finish(config, "runs/trades")   # checked before anything is done

A config is nested plain values, so that it can be printed, hashed, saved beside the checkpoints and overridden field by
field. `read` turns it into a typed `Config`, or says in one line what is wrong with it; `plain` is the way back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from advjax import compiling, data, fields, hosts, methods, parallel, plugins
from advjax.errors import InputError, shown, unknown, within
from advjax.fields import (
    SEED,
    Number,
    Parsed,
    above,
    above_up_to,
    at_least,
    at_least_below,
    between,
    chosen_from,
    field,
    one_of,
    strictly_between,
)
from advjax.methods import TrainingAttack
from advjax.training.schedules import SCHEDULES

# Fields that change how a run is watched, placed or scored, but not what is trained.
NOT_TRAINING: tuple[str, ...] = (
    "evaluation",
    "log",
    "devices",
    "hosts",
    "hosts_timeout",
    "parallel",
    "data.path",
    "data.extra.path",
    "data.data_dir",
    "data.workers",
    "compilation_cache",
)
NOT_TRAINING += ("checkpoint", "on_divergence")
# What a teacher that is trained first takes from its student's config.
SHARED = (
    "devices",
    "hosts",
    "hosts_timeout",
    "parallel",
    "precision",
    "products",
    "data",
    "evaluation",
    "log",
    "compilation_cache",
    "checkpoint",
    "on_divergence",
)

AUGMENT = Parsed(data.parse_augment, ", ".join(data.KINDS))
NETWORK = {"name": "resnet18", "width": 0, "mean": (), "std": ()}


@dataclasses.dataclass(frozen=True)
class Group:
    """Fields that belong together; checked when they are made."""

    def __post_init__(self) -> None:
        fields.check(self)


@dataclasses.dataclass(frozen=True)
class ExtraConfig(Group):
    """Extra training images, generated ones say, in every batch."""

    path: str = field("", help="npz file with the array image, uint8 [M, H, W, C], any size; empty: no extra images")
    labels: str = field("label", help="array of that file with their labels or pseudo-labels, integers [M]")
    ratio: float = field(0.0, at_least_below(0, 1), "share of every batch that is extra, 0.7 say")


@dataclasses.dataclass(frozen=True)
class DataConfig(Group):
    """Where the images come from and what happens to them."""

    name: str = field("cifar10", help="digits, npz, image_folder, or a tensorflow-datasets builder")
    path: str = field("", help="npz file, folder of shards, or image folder; empty: what the name says")
    augment: str = field("crop_flip", AUGMENT, "of the training images: steps joined by +")
    validation: int = field(
        1000, at_least(0), "training images held out to choose the best checkpoint; 0: only the last"
    )
    examples: int = field(0, at_least(0), "train on this many images, always the same ones; 0: all")
    label_noise: float = field(0.0, between(0, 1), "share of the training labels that are redrawn at random")
    image_size: int = field(0, at_least(0), "resize pictures to this many pixels a side; 0: as they are")
    resize: int = field(
        0, at_least(0), "shorter side before the centre is cropped to image_size; 0: the largest centred square"
    )
    crop: str = field("centre", one_of(*data.CROPS), "of training pictures; random: a part of 8 to 100 % of the area")
    streaming: str = field(
        "auto", one_of(*data.STREAMING), "decode pictures as they are needed; auto: above 4 GB, and for random crops"
    )
    workers: int = field(0, at_least(0), "processes that decode pictures; 0: one less than there are cores")
    num_classes: int = field(0, at_least(0), "of data from a path; 0: what the name or the labels say")
    data_dir: str = field("", help="where tensorflow-datasets keeps its data")
    extra: ExtraConfig = ExtraConfig()


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Group):
    """SGD or AdamW as PyTorch runs it."""

    name: str = field("sgd", one_of("sgd", "adamw", kind="optimizer"), "of all trained networks")
    learning_rate: float = field(0.1, above(0), "the largest learning rate")
    momentum: float = field(0.9, at_least_below(0, 1), "0: none; of adamw beta1")
    beta2: float = field(0.999, at_least_below(0, 1), "of adamw")
    nesterov: bool = field(False, help="Nesterov's form of the momentum; of sgd")
    weight_decay: float = field(5e-4, at_least(0), "L2 coefficient; of adamw the share of the weight, times the rate")
    decay: str = field("all", one_of("all", "kernels"), "the parameters that decay")
    clip_norm: float = field(0.0, at_least(0), "the gradient's norm is clipped to this, per network; 0: not")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(Group):
    """The learning rate over the run. Times are fractions of it, so that a recipe rescales with `epochs`."""

    name: str = field(
        "piecewise",
        chosen_from("schedule", lambda: (*SCHEDULES, *plugins.registered("schedule"))),
        "of the learning rate",
    )
    milestones: tuple[float, ...] = field((0.5, 0.75), above_up_to(0, 1), "fractions of the run at which it changes")
    factor: float | tuple[float, ...] = field(0.1, at_least(0), "what a drop multiplies with, or the shares reached")
    warmup: float = field(0.0, at_least_below(0, 1), "fraction of the run at its start with another rate")
    warmup_factor: float = field(0.0, at_least(0), "that rate over the largest; 0: it rises from 0")
    peak_at: float = field(0.5, strictly_between(0, 1), "fraction of the run at which a cyclic rate peaks")
    first_epoch: int = field(0, between(0, 1), "number of the first epoch where a piecewise linear rate is read")
    low_momentum: float = field(
        0.0, at_least_below(0, 1), "momentum where a cyclic or one-cycle rate peaks; 0: it does not change"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"must ascend, they are {self.milestones}", "milestones")


@dataclasses.dataclass(frozen=True)
class ParallelConfig(Group):
    """How a step is mapped over the devices."""

    mapping: str = field("pmap", one_of(*parallel.MAPPINGS, kind="mapping"), "both make the same program")


@dataclasses.dataclass(frozen=True)
class ValidationConfig(Group):
    """What is measured during training, on held-out and on training images."""

    every: int = field(1, at_least(1), "epochs between two validations")
    steps: int = field(10, at_least(1), "of PGD with step eps/4")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Group):
    """Which checkpoints stay."""

    every: int = field(0, at_least(0), "keep every n-th epoch for good, beside the last and the best; 0: none")
    every_minutes: float = field(10.0, at_least(0), "save within an epoch, too, every so many minutes; 0: not")
    keep: int = field(2, at_least(2), "how many of the latest stay, for when the newest is damaged")


@dataclasses.dataclass(frozen=True)
class LogConfig(Group):
    """What is written during training."""

    every_steps: int = field(0, at_least(0), "metrics within an epoch, too, every so many steps; 0: not")
    tensorboard: bool = field(True, help="write TensorBoard events")
    writers: tuple[str, ...] = field((), help="further writers of the metrics: wandb, mlflow, package.module:Class")


@dataclasses.dataclass(frozen=True)
class RadiiConfig(Group):
    """The radii of the protocol `union`, the same for every network that is compared."""

    linf: Number = field("8/255", at_least(0), "radius in l_inf")
    l2: Number = field("0.5", at_least(0), "radius in l_2")
    l1: Number = field("12", at_least(0), "radius in l_1")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Group):
    """How the trained networks are scored."""

    protocol: str = field("quick", help="a named set of attacks, see --list")
    batch_size: int = field(0, between(0, 1_000_000), "images at a time; 0: what suits the machine")
    examples: int = field(0, at_least(0), "the first n test images; 0: all")
    seed: int = field(0, SEED, "of the attacks")
    surrogate: str = field("", help="network that transfer attacks are crafted on: a teacher's name or a run's folder")
    radii: RadiiConfig = RadiiConfig()
    corruptions: str = field(
        "", help="folder of CIFAR-C's .npy files for the protocol corruptions; empty: computed ones"
    )
    train_examples: int = field(
        1000,
        at_least(0),
        "training images attacked for the robust generalisation gap, at most as many as test images; 0: none",
    )


@dataclasses.dataclass(frozen=True)
class TeacherConfig(Group):
    """A frozen network of the method: where it is, or how it is trained first."""

    path: str = field("", help="folder of a finished run, or a weights file; empty: it is trained first")
    checkpoint: str = field("best", one_of("best", "last", kind="checkpoint"), "of a run, trained first or not")
    member: str = field("", help="of a run with several networks: which; empty: the one its report begins with")
    network: dict = field({}, help="architecture of a weights file or of what is trained")
    train: dict = field({}, help="the config that trains it, without what it shares with its student")


@dataclasses.dataclass(frozen=True)
class Config(Group):
    """A run: what is trained on which data against which threat, and how it is scored."""

    seed: int = field(0, SEED, "root of all randomness of the training")
    epochs: int = field(200, between(1, 1_000_000), "length of the run; schedules and phases are fractions of it")
    batch_size: int = field(128, between(1, 1_000_000), "over all devices together")
    microbatches: int = field(
        1,
        between(1, 1_000_000),
        "parts of a batch taken one after the other, gradients added up, for want of memory; BatchNorm normalises over "
        "a part",
    )
    devices: int = field(0, at_least(0), "how many of this host (of each, if there are several); 0: all")
    hosts: str = field(
        "auto", Parsed(hosts.parse, hosts.ALLOWED), "the processes that train as one; auto: as the cluster"
    )
    hosts_timeout: float = field(60.0, above(0), "seconds after which a silent process is gone, and all others end")
    precision: str = field("float32", one_of("float32", "bfloat16", kind="precision"), "of the activations")
    products: str = field(
        "default",
        one_of(*compiling.PRECISIONS, kind="precision"),
        "how accelerators multiply float32 in training: default is one bfloat16 pass on a TPU and TF32 on NVIDIA, high "
        "three passes or TF32, highest float32; scoring always takes highest",
    )
    batch_norm: str = field("global", one_of("global", "device"), "statistics over the whole batch, or per device")
    on_divergence: str = field(
        "stop", one_of("stop", "rollback"), "when the loss is not finite: stop, or go back and halve the learning rate"
    )
    init_from: str = field("", help="folder of a finished run, or a weights file, to start from")
    compilation_cache: str = field("auto", help="keeps compiled programs: auto (the user's cache), a folder, or off")
    method: dict = field({"name": "pgd_at"}, help="name of the method and its hyperparameters")
    network: dict = field(NETWORK, help="name of the network and its options; 0, (): the network's own")
    networks: dict = field({}, help="another network for a role of the method, e.g. networks.guide")
    teachers: dict = field({}, help="the method's frozen networks")
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig = DataConfig()
    attack: TrainingAttack = TrainingAttack()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("method", "network"):
            if not isinstance(getattr(self, name).get("name"), str):
                raise InputError(f"must be a name, it is {shown(getattr(self, name).get('name'))}", f"{name}.name")
        for role, each in self.networks.items():
            if not isinstance(each, Mapping):
                raise InputError(f"must be a group of fields, it is {shown(each)}", f"networks.{role}")
        teachers = {
            role: each if isinstance(each, TeacherConfig) else _read(TeacherConfig, each, f"teachers.{role}.")
            for role, each in self.teachers.items()
        }
        object.__setattr__(self, "teachers", teachers)


def default(method: str = "pgd_at", **hyperparameters: Any) -> ConfigDict:
    """A config of a method with all fields at their defaults: the method's as its class has them, and its attack.

    Args:
        method: name of a method, possibly with wrappers (`trades_awp`).
        **hyperparameters: those that differ from the class's defaults.

    Returns:
        An ml_collections ConfigDict, type-safe. A field that does not exist is found when it is read.

    Examples:
        >>> config = default("trades", beta=5.0)
        >>> config.method.beta, config.attack.eps
        (5.0, '0.031')
        >>> config.epochs = "many"
        Traceback (most recent call last):
            ...
        TypeError: ...
    """
    own = methods.defaults(method)
    for name in hyperparameters:
        if name not in own:
            raise unknown(f"hyperparameter of method {method}", name, own, name)
    attack = methods.default_attack(method) or TrainingAttack()
    values = plain(Config(method={"name": method, **own, **hyperparameters}, attack=attack))
    # ConfigDict overrides a tuple by a tuple on the command line, a list it would append to.
    return ConfigDict(fields.plain(values, "config"))


def read(config: Mapping[str, Any] | ConfigDict) -> Config:
    """A config as a typed value.

    Args:
        config: nested plain values; fields that are absent have their defaults.

    Raises:
        InputError: a field that does not exist, or a value that it cannot have; names it.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    return _read(Config, values, "")


def _read(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"must be a group of fields, it is {shown(values)}", prefix.rstrip(".") or "config")
    known = fields.types_of(cls)
    for name in values:
        if name not in known:
            raise unknown("config field", f"{prefix}{name}", [f"{prefix}{each}" for each in known])
    given = {
        name: _read(known[name], value, f"{prefix}{name}.") if dataclasses.is_dataclass(known[name]) else value
        for name, value in values.items()
    }
    with within(prefix):
        return cls(**given)


def plain(config: Config) -> dict[str, Any]:
    """The config as nested dicts of numbers, strings and lists, as JSON keeps them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the config's canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def shared_fields(config: Config) -> dict[str, Any]:
    """The fields that processes which train as one must have in common: all but where on its own host each finds things."""
    own = ("data.path", "data.data_dir", "compilation_cache")
    return {field: value for field, value in flatten(plain(config)).items() if field not in own}


def training_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields that change the training and differ between two configs, each as `field: old -> new`."""
    old, new = flatten(old), flatten(new)

    def matters(field: str) -> bool:
        # Of a teacher its hash is compared, not its place.
        if field.startswith("teachers.") and field.endswith(".path"):
            return False
        return not any(field == ignored or field.startswith(ignored + ".") for ignored in NOT_TRAINING)

    return [
        f"{field}: {old.get(field, 'absent')!r} -> {new.get(field, 'absent')!r}"
        for field in sorted({*old, *new})
        if matters(field) and old.get(field) != new.get(field)
    ]


def describe(cls: type = Config, prefix: str = "") -> Iterator[tuple[str, Any, str, str]]:
    """(name, default, what is allowed, what it is) of every field, for `--help`."""
    for each in dataclasses.fields(cls):
        kind, name = fields.types_of(cls)[each.name], prefix + each.name
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from describe(kind, f"{name}.")
            continue
        yield name, getattr(cls(), each.name), fields.allowed(each.metadata.get("rule")), each.metadata.get("help", "")
