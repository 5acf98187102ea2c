"""Teachers: the frozen networks of a method, from a finished run, from a weights file, or trained first.

For every network that a method lists as frozen, `NAME_teacher`, the config has `teachers.NAME`:

    path        folder of a finished run of this project, or a weights file (PyTorch, safetensors, DeepMind's Haiku);
                empty: the teacher is trained first, in the folder teachers/NAME of the workdir
    checkpoint  of a run, trained first or not: "best" or "last"
    member      of a run that trained several networks: which; empty: the one that its report begins with
    network     architecture of a weights file (a network's name, or one of `advjax.models.teachers`) or of what is
                trained; a run knows its own
    train       how it is trained: a config without the fields that a teacher shares with its student
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from advjax import models, runs
from advjax.data import Dataset, Split
from advjax.errors import InputError, unknown
from advjax.evaluate import attack_dataset, clean, params_sha256, pgd_steps, write_atomically
from advjax.methods.base import Method
from advjax.models.teachers import load_teacher
from advjax.models.teachers import names as published
from advjax.models.teachers import teacher as published_teacher
from advjax.training.checkpoints import Checkpoints
from advjax.training.experiment import Experiment, Parts, build, check_fits, create_network
from advjax.training.log import Display
from advjax.training.loop import train

FILE = "teachers.json"
SHARED = ("devices", "precision", "data", "evaluation", "log", "compilation_cache")
EXAMPLES = 1000


class Teacher(NamedTuple):
    """A frozen network.

    Attributes:
        role: its name in the config and in the report, `robust` for the network `robust_teacher`.
        source: where it comes from, as the report says it.
        module: the network.
        variables: its variables; None until it is trained.
        training: the experiment that trains it; None for a teacher that is given.
        checkpoint: which checkpoint of that experiment it is.
    """

    role: str
    source: str
    module: nn.Module
    variables: Any
    training: Experiment | None = None
    checkpoint: str = "best"

    @property
    def architecture(self) -> str:
        """Name of the network in the registry."""
        return models.describe(self.module)[0]


def find(config: Mapping[str, Any], method: Method, parts: Parts) -> dict[str, Teacher]:
    """Name of the frozen network -> teacher; nothing is computed, but everything is checked that can be.

    Args:
        config: the student's config.
        method: the student's method.
        parts: the student's data, which teachers that are trained first share, validation part included.

    Raises:
        InputError: a teacher that is not there, does not fit the data, or whose config is wrong.
    """
    wanted, given = {name.removesuffix("_teacher"): name for name in method.frozen}, config.get("teachers", {})
    for role in given:
        if role not in wanted:
            raise unknown("teacher of this method", f"teachers.{role}", [f"teachers.{role}" for role in wanted])
    for role in wanted:
        if role not in given:
            raise InputError(f"teachers.{role} is missing: this method needs the teachers {', '.join(wanted)}")
    teachers = {}
    for number, (role, name) in enumerate(wanted.items()):
        options, field = given[role], f"teachers.{role}"
        if options["checkpoint"] not in runs.CHECKPOINTS:
            raise unknown(f"{field}.checkpoint", options["checkpoint"], runs.CHECKPOINTS)
        path = pathlib.Path(options["path"])
        if not options["path"]:
            teachers[name] = _to_train(config, role, options, parts, number)
        elif not path.exists():
            raise InputError(
                f"{field}.path must be the folder of a finished run or a weights file, there is nothing at {path}"
            )
        elif path.is_dir():
            teachers[name] = Teacher(role, options["path"], *_from_run(path, field, options, parts))
        else:
            teachers[name] = Teacher(
                role, options["path"], *_from_file(path, field, options["network"], config["precision"], parts.dataset)
            )
    return teachers


def _to_train(config, role, options, parts, number) -> Teacher:
    own = {
        **options["train"],
        "network": options["network"],
        "networks": {},
        "teachers": {},
        "init_from": "",
        # Another seed than the student's, so that no two networks start from the same parameters.
        "seed": config["seed"] + 1000 * (number + 1),
        **{key: config[key] for key in SHARED},
    }
    try:
        training = build(own, parts)
    except InputError as error:
        raise InputError(f"teachers.{role}.train: {error}") from None
    network = training.method.evaluated[0]
    return Teacher(role, f"teachers/{role}", training.modules[network], None, training, options["checkpoint"])


def _from_run(path, field, options, parts) -> tuple[nn.Module, Any]:
    data = runs.read_json(path, "data.json")
    _check_data(f"{field}.path: the run in {path}", data["num_classes"], tuple(data["image_shape"]), parts.dataset)
    done, epochs = _epochs_done(path), runs.read_json(path, "config.json")["epochs"]
    if done < epochs:
        raise InputError(f"{field}.path: the run in {path} is not finished, {done} of {epochs} epochs are done")
    try:
        return runs.load_run(path, options["member"] or None, options["checkpoint"])
    except InputError as error:
        raise InputError(f"{field}: {error}") from None


def _epochs_done(path: pathlib.Path) -> int:
    if not (path / "checkpoints").is_dir():
        return 0
    checkpoints = Checkpoints(path / "checkpoints")
    try:
        return checkpoints.last or 0
    finally:
        checkpoints.close()


def _from_file(path, field, options, precision, dataset) -> tuple[nn.Module, Any]:
    try:
        if options["name"] in published():
            known = published_teacher(options["name"])
            _check_data(options["name"], known.num_classes, known.image_shape, dataset)
            return load_teacher(options["name"], path, dtype=precision)
        module = create_network(options, dataset.num_classes, precision)
        check_fits(f"{field}.network", module, dataset.image_shape)
        return module, models.load_torch(path, module, dataset.image_shape)
    except InputError as error:
        raise InputError(f"{field}.path, {field}.network: {error}") from None


def _check_data(what: str, num_classes: int, image_shape: tuple[int, int, int], dataset: Dataset) -> None:
    if (num_classes, image_shape) != (dataset.num_classes, dataset.image_shape):
        raise InputError(
            f"{what} has {num_classes} classes and images {image_shape}, "
            f"the data has {dataset.num_classes} classes and images {dataset.image_shape}"
        )


def with_stand_ins(experiment: Experiment) -> Experiment:
    """The experiment with fresh variables in place of teachers that have yet to be trained, to measure its speed."""
    shape, frozen = experiment.dataset.image_shape, dict(experiment.frozen)
    for name, teacher in experiment.teachers.items():
        if name not in frozen:
            frozen[name] = models.init(teacher.module, jax.random.key(0), shape)
    return experiment._replace(frozen=frozen)


def prepare(experiment: Experiment, workdir: pathlib.Path, display: Display) -> Experiment:
    """The experiment with all its teachers: those that are given are checked, the others are then trained.

    What they are, hash and accuracies, goes into `teachers.json`, which the report quotes. Interrupted and called
    again, it goes on where it was.

    Raises:
        InputError: a teacher is near chance, or another one than when this run began.
    """
    known = runs.read_json(workdir, FILE) if (workdir / FILE).exists() else {}
    ready: dict[str, Teacher] = {}
    for name, teacher in sorted(experiment.teachers.items(), key=lambda item: item[1].training is not None):
        if teacher.training is not None:
            teacher = _trained(teacher, workdir, display)
        sha256, role = params_sha256(teacher.variables), teacher.role
        if role in known and known[role]["params_sha256"] != sha256:
            raise InputError(
                f"teachers.{role}: this run began with the teacher {known[role]['params_sha256'][:12]} "
                f"({known[role]['source']}), now it is {sha256[:12]}: choose another --workdir, or the same teacher"
            )
        if role not in known:
            known[role] = _measure(teacher, sha256, experiment, display)
            write_atomically(workdir / FILE, json.dumps(known, indent=2) + "\n")
        ready[name] = teacher
    frozen = {name: teacher.variables for name, teacher in ready.items()}
    return experiment._replace(teachers=ready, frozen=frozen)


def _trained(teacher: Teacher, workdir: pathlib.Path, display: Display) -> Teacher:
    training, folder = teacher.training, workdir / teacher.source
    assert training is not None
    epochs = training.config["epochs"]
    if _epochs_done(folder) < epochs:
        display.line(
            f"teacher {teacher.role}: none is given (teachers.{teacher.role}.path), so it is trained first: "
            f"{training.config['method']['name']}, {teacher.architecture}, {epochs} epochs, in {folder}"
        )
        runs.prepare_workdir(folder, training)
        train(training, folder, display)
    module, variables = runs.load_run(folder, checkpoint=teacher.checkpoint)
    return teacher._replace(module=module, variables=variables)


def _measure(teacher: Teacher, sha256: str, experiment: Experiment, display: Display) -> dict[str, Any]:
    """What the report says of a teacher. Its accuracies are those on the first test images."""
    test = Split(*(array[:EXAMPLES] for array in experiment.dataset.test))
    evaluation, logits_fn = experiment.config["evaluation"], models.logits_fn(teacher.module, teacher.variables)
    attack, accuracy = pgd_steps(20, experiment.norm, experiment.eps), {}
    for each in (clean(), attack):
        outcome = attack_dataset(
            logits_fn,
            each,
            test,
            seed=evaluation["seed"],
            batch_size=evaluation["batch_size"],
            devices=experiment.devices,
        )
        accuracy[each.name] = outcome.accuracy
        if each.name == "clean" and outcome.accuracy <= _near_chance(experiment.dataset.num_classes):
            raise InputError(
                f"teachers.{teacher.role}: its accuracy on clean images is {outcome.accuracy:.1%}, near chance for "
                f"{experiment.dataset.num_classes} classes: wrong weights, architecture or normalisation "
                f"(teachers.{teacher.role}.network), or too short a training"
            )
    display.line(
        f"teacher {teacher.role}: {teacher.architecture}, {teacher.source}: clean {accuracy['clean']:.2%}, "
        f"{attack.name} {accuracy[attack.name]:.2%} of {len(test.label)} images"
    )
    return {
        "architecture": teacher.architecture,
        "source": teacher.source,
        "trained_by": teacher.training.config["method"]["name"] if teacher.training else None,
        "params_sha256": sha256,
        "clean_accuracy": accuracy["clean"],
        "robust_accuracy": accuracy[attack.name],
        "attack": attack.name,
        "n": len(test.label),
    }


def doubts(known: Mapping[str, Mapping[str, Any]], num_classes: int) -> list[str]:
    """Warnings about teachers as `teachers.json` describes them."""
    return [
        f"teacher {role}: its accuracy under {each['attack']} is {each['robust_accuracy']:.2%}, near chance: it has "
        "little robustness to teach"
        for role, each in known.items()
        if role.startswith("robust") and each["robust_accuracy"] <= _near_chance(num_classes)
    ]


def _near_chance(num_classes: int) -> float:
    """A tenth of the way from chance to perfect."""
    return 1.0 / num_classes + 0.1 * (1.0 - 1.0 / num_classes)
