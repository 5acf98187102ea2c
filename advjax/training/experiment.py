"""From the plain values of a config to everything that a run needs. All bad input is found here, before compilation."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from advjax import data, methods, models, parallel, threat
from advjax.attacks.engine.inputs import check_radius
from advjax.data import Dataset, Split
from advjax.errors import InputError, unknown
from advjax.evaluate import Attack, protocol
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Method
from advjax.numbers import number
from advjax.training import schedules
from advjax.training.step import StepConfig

# Fields that change how a run is watched, placed or scored, but not what is trained.
NOT_TRAINING = ("evaluation", "log", "devices", "data.path", "compilation_cache")


class Parts(NamedTuple):
    """The data of a run.

    Attributes:
        dataset: the data, `train` without the validation part.
        validation: the validation part, possibly empty.
        validation_index: rows of the whole training set that make it up.
    """

    dataset: Dataset
    validation: Split
    validation_index: np.ndarray


class Experiment(NamedTuple):
    """A resolved config.

    Attributes:
        config: the config as nested dicts of plain values.
        dataset: the data, `train` without the validation part.
        validation: the validation part, possibly empty.
        validation_index: rows of the whole training set that make it up.
        method: what is trained.
        modules: name -> module, of every network of the method.
        optimizer: applied to each trained network.
        schedule: its learning rate by step.
        devices: where it runs.
        step: what a training step needs to know.
        given: name -> variables to start from.
        frozen: name -> variables of the networks that are not trained.
        teachers: name -> what is known of these (`advjax.training.teachers`).
        attacks: the protocol of the evaluation.
    """

    config: dict[str, Any]
    dataset: Dataset
    validation: Split
    validation_index: np.ndarray
    method: Method
    modules: Mapping[str, nn.Module]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    devices: Sequence[jax.Device]
    step: StepConfig
    given: Mapping[str, Any]
    frozen: Mapping[str, Any]
    teachers: Mapping[str, Any]
    attacks: Sequence[Attack]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch, the last one padded."""
        return -(-len(self.dataset.train.label) // self.config["batch_size"])

    @property
    def eps(self) -> float:
        """Radius of the threat model."""
        return number(self.config["attack"]["eps"])

    @property
    def norm(self) -> str:
        """Norm of the threat model."""
        return threat.canonical_norm(self.config["attack"]["norm"])


def build(config: Mapping[str, Any], parts: Parts | None = None) -> Experiment:
    """Everything that a config names.

    Args:
        config: nested plain values, as `experiments/configs/common.py` lays them out.
        parts: the data, if it is there already (a teacher is trained on its student's).

    Raises:
        InputError: any field that is wrong; the line names it.
    """
    config = json.loads(json.dumps(config))
    _check_numbers(config)
    method = create_method(config)
    devices = parallel.local_devices(config["devices"])
    parallel.check_batch_size(config["batch_size"], devices)
    parts = parts or _load_parts(config)
    dataset, train = parts.dataset, parts.dataset.train
    norm = threat.canonical_norm(config["attack"]["norm"])
    check_radius(norm, number(config["attack"]["eps"], "attack.eps"), dataset.image_shape, "attack.eps")
    _check_surrogate(config["evaluation"]["surrogate"], method)
    attacks = protocol(config["evaluation"]["protocol"], norm, config["attack"]["eps"], config["evaluation"]["radii"])
    from advjax.training import teachers

    found = teachers.find(config, method, parts)
    modules = create_modules(config, method, dataset.num_classes)
    modules |= {name: teacher.module for name, teacher in found.items()}
    for name, module in modules.items():
        check_fits(name, module, dataset.image_shape)
    steps = -(-len(train.label) // config["batch_size"])
    updates = sum(method.trained[0] in names for names in method.rounds)
    optimizer, schedule = schedules.from_config(
        config["optimizer"], config["schedule"], config["epochs"], steps, updates
    )
    step = StepConfig(
        seed=config["seed"],
        num_classes=dataset.num_classes,
        augment=config["data"]["augment"],
        batch_norm=config["batch_norm"],
        devices=len(devices),
        epochs=config["epochs"],
    )
    given = _initial(config["init_from"], modules, method, dataset.image_shape) if config["init_from"] else {}
    frozen = {name: teacher.variables for name, teacher in found.items() if teacher.variables is not None}
    return Experiment(
        config, *parts, method, modules, optimizer, schedule, devices, step, given, frozen, found, attacks
    )


def create_method(config: Mapping[str, Any]) -> Method:
    """The method that `config.method` and `config.attack` describe."""
    fields = dict(config["method"])
    return methods.create(fields.pop("name"), TrainingAttack(**config["attack"]), **fields)


def create_modules(config: Mapping[str, Any], method: Method, num_classes: int) -> dict[str, nn.Module]:
    """name -> module of every network that the method trains or averages."""
    names = {*method.trained, *method.averaged}
    for name, options in config["networks"].items():
        if options["name"] and name not in names:
            raise unknown("network of this method (networks)", f"networks.{name}", [f"networks.{n}" for n in names])
    options = {name: network_options(config, method.averaged.get(name, name)) for name in sorted(names)}
    return {name: create_network(value, num_classes, config["precision"]) for name, value in options.items()}


def network_options(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """`config.networks.NAME` where it names a network, `config.network` otherwise."""
    named = config["networks"].get(name, {})
    return named if named.get("name") else config["network"]


def create_network(options: Mapping[str, Any], num_classes: int, precision: str) -> nn.Module:
    """The network that `config.network` describes; an option left at 0 or () is the network's own default."""
    unset: tuple[Any, ...] = (0, (), [], None, "")
    chosen = {key: value for key, value in options.items() if isinstance(value, bool) or value not in unset}
    return models.create(chosen.pop("name"), num_classes, dtype=precision, **chosen)


def check_variables(variables: Any, module: nn.Module, image_shape: tuple[int, int, int], where: str) -> None:
    """Raises `InputError` unless the variables are those of the module."""

    def shapes(tree):
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in flat}

    found, expected = shapes(variables), shapes(models.variable_shapes(module, image_shape))
    for path in sorted({*found, *expected}):
        if found.get(path) != expected.get(path):
            raise InputError(
                f"{where}: {path} has shape {found.get(path, 'none')}, "
                f"{type(module).__name__} needs {expected.get(path, 'none')}"
            )


def _check_surrogate(name: str, method: Method) -> None:
    if name and name not in method.frozen and not (pathlib.Path(name) / "config.json").is_file():
        allowed = ", ".join(["empty", *method.frozen, "the folder of a finished run"])
        raise InputError(f"evaluation.surrogate must be one of: {allowed}; it is {name!r}")


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


def training_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields that change the training and differ between two configs, each as `field: old -> new`."""
    old, new = flatten(old), flatten(new)

    def matters(field):
        # Of a teacher its hash is compared, not its place.
        if field.startswith("teachers.") and field.endswith(".path"):
            return False
        return not any(field == ignored or field.startswith(ignored + ".") for ignored in NOT_TRAINING)

    return [
        f"{field}: {old.get(field, 'absent')!r} -> {new.get(field, 'absent')!r}"
        for field in sorted({*old, *new})
        if matters(field) and old.get(field) != new.get(field)
    ]


def _check_numbers(config: Mapping[str, Any]) -> None:
    positive: tuple[str, ...] = (
        "epochs",
        "batch_size",
        "optimizer.learning_rate",
        "validation.steps",
        "validation.every",
    )
    at_least_zero: tuple[str, ...] = (
        "seed",
        "devices",
        "data.validation",
        "optimizer.momentum",
        "optimizer.weight_decay",
    )
    at_least_zero += ("optimizer.clip_norm", "checkpoint.every", "evaluation.examples", "log.every_steps")
    flat = flatten(config)
    for field in (*positive, *at_least_zero):
        value, strict = flat[field], field in positive
        if not np.isfinite(value) or value < 0 or (strict and value == 0):
            raise InputError(f"{field} must be {'above' if strict else 'at least'} 0, it is {value}")
    for field, allowed in (("precision", ("float32", "bfloat16")), ("batch_norm", ("global", "device"))):
        if config[field] not in allowed:
            raise unknown(field, config[field], allowed)
    if config["data"]["augment"] not in data.KINDS:
        raise unknown("augmentation (data.augment)", config["data"]["augment"], data.KINDS)


def load_data(fields: Mapping[str, Any]) -> Dataset:
    """The data set that `config.data` names, validation part included."""
    options = {key: value for key, value in fields.items() if key not in ("augment", "validation")}
    path = options.pop("path") or None
    return data.load(options.pop("name"), path, **{key: value for key, value in options.items() if value})


def _load_parts(config: Mapping[str, Any]) -> Parts:
    dataset = load_data(config["data"])
    train, validation, index = data.split_validation(dataset.train, config["data"]["validation"], config["seed"])
    return Parts(dataset._replace(train=train), validation, index)


def check_fits(name: str, module: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Raises `InputError` if a network cannot take such images."""
    try:
        models.variable_shapes(module, image_shape)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"network {name} ({type(module).__name__}) does not take images {image_shape}: {reason}"
        ) from error


def _initial(source: str, modules, method: Method, image_shape) -> dict[str, Any]:
    """Variables for every trained network, from a finished run's folder or a weights file."""
    from advjax.runs import load_run

    path = pathlib.Path(source)
    if not path.exists():
        raise InputError(f"init_from must be the folder of a run or a weights file, there is nothing at {source}")
    given = {}
    for name in method.trained:
        if path.is_dir():
            variables = load_run(path, None if len(method.trained) == 1 else name)[1]
        else:
            variables = models.load_torch(source, modules[name], image_shape)
        check_variables(variables, modules[name], image_shape, f"init_from: {source}")
        given[name] = variables
    return given
