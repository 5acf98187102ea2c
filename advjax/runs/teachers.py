"""Teachers: the frozen networks of a method, from a finished run, from a weights file, or trained first.

For every network that a method lists as frozen or pretrained, `NAME_teacher`, the config has `teachers.NAME`
(`advjax.runs.schema.TeacherConfig`). One without a path is trained first, in the folder teachers/NAME of the workdir, by
the config `train`, to which its student's data, devices and the like are added.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from advjax import models, remote
from advjax.data import Dataset
from advjax.errors import InputError, unknown
from advjax.files import is_there
from advjax.methods import Method
from advjax.models import load_teacher
from advjax.models.published import names as published
from advjax.models.published import teacher as published_teacher
from advjax.runs import schema
from advjax.runs.experiment import Experiment, Parts, Teacher
from advjax.runs.networks import check_fits, create_network
from advjax.runs.schema import SHARED, Config, TeacherConfig
from advjax.runs.workdir import check_finished, load_run, read_data

Build = Callable[[Mapping[str, Any], Parts], Experiment]


def find(config: Config, method: Method, parts: Parts, build: Build) -> dict[str, Teacher]:
    """Name of the frozen or pretrained network -> teacher; nothing is computed, but everything is checked that can be.

    Args:
        config: the student's config.
        method: the student's method.
        parts: the student's data, which teachers that are trained first share, validation part included.
        build: makes the experiment that trains a teacher, of its config and the data.

    Raises:
        InputError: a teacher that is not there, does not fit the data, or whose config is wrong.
    """
    wanted = {name.removesuffix("_teacher"): name for name in (*method.frozen, *method.pretrained)}
    for role in config.teachers:
        if role not in wanted:
            raise unknown("teacher of this method", f"teachers.{role}", [f"teachers.{role}" for role in wanted])
    for role in wanted:
        if role not in config.teachers:
            raise InputError(f"teachers.{role} is missing: this method needs the teachers {', '.join(wanted)}")
    return {
        name: _find_one(config, role, config.teachers[role], parts, number, build)
        for number, (role, name) in enumerate(wanted.items())
    }


def _find_one(config: Config, role: str, options: TeacherConfig, parts: Parts, number: int, build: Build) -> Teacher:
    field = f"teachers.{role}"
    if not options.path:
        return _to_train(config, role, options, parts, number, build)
    path = remote.local(options.path, f"{field}.path")
    if not is_there(path):
        raise InputError(
            f"{field}.path must be the folder of a finished run or a weights file, there is nothing at {path}"
        )
    if path.is_dir():
        network = from_run(path, f"{field}.path", parts.dataset, options.member, options.checkpoint)
        return Teacher(role, options.path, *network)
    network = _from_file(path, field, options.network, config.precision, parts.dataset)
    return Teacher(role, options.path, *network)


def _to_train(config: Config, role: str, options: TeacherConfig, parts: Parts, number: int, build: Build) -> Teacher:
    plain = schema.plain(config)
    own = {
        **options.train,
        "network": options.network,
        # Another seed than the student's, so that no two networks start from the same parameters.
        "seed": (config.seed + 1000 * (number + 1)) % 2**32,
        **{key: plain[key] for key in SHARED},
    }
    own["evaluation"] = {**plain["evaluation"], "surrogate": ""}  # nothing is crafted for a teacher
    try:
        training = build(own, parts)
    except InputError as error:
        raise InputError(f"teachers.{role}.train: {error}") from None
    network = options.member or training.method.evaluated[0]
    if network not in training.modules:
        raise unknown("network of its method", network, training.modules, f"teachers.{role}.member")
    return Teacher(role, f"teachers/{role}", training.modules[network], None, training, options.checkpoint, network)


def from_run(
    path: str | os.PathLike[str], field: str, dataset: Dataset, member: str = "", checkpoint: str = "best"
) -> tuple[nn.Module, Any]:
    """A network of a finished run, at a path or an address, for images and classes as the data has them.

    Raises:
        InputError: no such run or network, one that is not finished, or of other images; begins with `field`.
    """
    path = remote.local(path, field)
    try:
        described = read_data(path)
        shape = tuple(described.get("image_shape", ()))
        _check_data(f"the run in {path}", described.get("num_classes"), shape, dataset)
        check_finished(path)
        return load_run(path, member or None, checkpoint)
    except InputError as error:
        raise InputError(f"{field}: {error}") from None


def _from_file(
    path: pathlib.Path, field: str, options: Mapping[str, Any], precision: str, dataset: Dataset
) -> tuple[nn.Module, Any]:
    try:
        name = options.get("name", "")
        if name in published():
            known = published_teacher(name)
            _check_data(name, known.num_classes, known.image_shape, dataset)
            return load_teacher(name, path, dtype=precision)
        module = create_network(options, dataset.num_classes, precision)
        check_fits(f"{field}.network", module, dataset.image_shape)
        return module, models.load_torch(path, module, dataset.image_shape)
    except InputError as error:
        raise InputError(f"{field}.path, {field}.network: {error}") from None


def _check_data(what: str, num_classes: Any, image_shape: tuple[Any, ...], dataset: Dataset) -> None:
    if (num_classes, image_shape) != (dataset.num_classes, dataset.image_shape):
        raise InputError(
            f"{what} has {num_classes} classes and images {image_shape}, "
            f"the data has {dataset.num_classes} classes and images {dataset.image_shape}"
        )


# From here on a teacher's predictions under attack on its training images are all but the labels.
FITTED = 0.95


def doubts(known: Mapping[str, Mapping[str, Any]], num_classes: int) -> list[str]:
    """Warnings about robust teachers as `teachers.json` describes them: too weak to teach, or too sure of its labels."""
    found = []
    for role, each in known.items():
        if not role.startswith("robust"):
            continue
        test, training = each["robust_accuracy"], each.get("robust_training_accuracy", 0.0)
        if test <= near_chance(num_classes):
            found.append(
                f"teacher {role}: its accuracy under {each['attack']} is {test:.2%}, near chance: it has little "
                "robustness to teach"
            )
        if training >= FITTED:
            found.append(
                f"teacher {role}: its accuracy under {each['attack']} on training images is {training:.2%}: what it says of "
                "them is hardly more than their labels, and a less fitted teacher may teach better (docs/teachers.md)"
            )
    return found


def near_chance(num_classes: int) -> float:
    """A tenth of the way from chance to perfect."""
    return 1.0 / num_classes + 0.1 * (1.0 - 1.0 / num_classes)
