"""What lies in a run's folder, and how to get a network out of it."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import numpy as np

from advjax import remote
from advjax.data import Split
from advjax.errors import InputError, shown, unknown
from advjax.evaluate.report import check_report
from advjax.files import is_there, read_json, write_atomically, write_json
from advjax.methods import Method
from advjax.models import check_variables
from advjax.runs import schema
from advjax.runs.experiment import Experiment
from advjax.runs.networks import create_method, create_modules
from advjax.runs.schema import Config
from advjax.training.checkpoints import Checkpoints, Damaged

CHECKPOINTS = ("best", "last")


def read_config(workdir: str | os.PathLike[str]) -> Config:
    """The config of a run.

    Raises:
        InputError: the folder holds no run, or its config is wrong.
    """
    try:
        return schema.read(read_json(workdir, "config.json"))
    except InputError as error:
        if str(error).startswith(str(workdir)):
            raise
        raise InputError(f"{pathlib.Path(workdir) / 'config.json'}: {error}") from None


def open_checkpoints(workdir: str | os.PathLike[str]) -> Checkpoints:
    """The checkpoints of a run, to be closed.

    Raises:
        InputError: it has none yet.
    """
    folder = pathlib.Path(workdir) / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"the run in {workdir} has no checkpoint yet")
    return Checkpoints(folder)


def epochs_done(workdir: pathlib.Path) -> int:
    """How many epochs of the run in a folder are done and checkpointed."""
    if not (workdir / "checkpoints").is_dir():
        return 0
    checkpoints = open_checkpoints(workdir)
    try:
        steps = checkpoints.last or 0
    finally:
        checkpoints.close()
    if (train := read_data(workdir).get("train", 0)) < 1:
        raise InputError(f"{workdir / 'data.json'} does not say how many images there are to train on")
    return steps // -(-train // read_config(workdir).batch_size)


def unfinished(workdir: pathlib.Path) -> str:
    """A line about a run whose training is not done; empty for others."""
    done, epochs = epochs_done(workdir), read_config(workdir).epochs
    return "" if done >= epochs else f"the run in {workdir} is not finished, {done} of {epochs} epochs are done"


def check_finished(workdir: pathlib.Path) -> None:
    """Raises `InputError` unless the training of the run in a folder is done."""
    if line := unfinished(workdir):
        raise InputError(line)


def load_run(
    workdir: str | os.PathLike[str], network: str | None = None, checkpoint: str = "best"
) -> tuple[nn.Module, dict[str, Any]]:
    """A network of a finished run.

    Args:
        workdir: the run's folder, or its address (gs://bucket/run).
        network: the network's name in its method; the first that the method evaluates if absent.
        checkpoint: `"best"` (by accuracy on the validation split; the last where there was none) or `"last"`.

    Returns:
        The linen module and its variables, `{"params": ..., "batch_stats": ...}`. `advjax.logits_fn(module, variables)`
        makes the function that attacks take.

    Raises:
        InputError: no run, no checkpoint or no network of that name.
        Damaged: the checkpoint does not hold what was saved; an evaluation takes another one and says so (`load_whole`).
    """
    return _load(remote.local(workdir, "workdir"), network, checkpoint, others=False)[:2]


class Loaded(NamedTuple):
    """A network, and where it is from.

    Attributes:
        module: the linen module.
        variables: its parameters and statistics.
        step: number of the checkpoint.
        instead: a line if another checkpoint was asked for, which is damaged; empty otherwise.
    """

    module: nn.Module
    variables: dict[str, Any]
    step: int
    instead: str


def load_whole(workdir: str | os.PathLike[str], network: str | None = None, checkpoint: str = "best") -> Loaded:
    """`load_run`, but where the best checkpoint is damaged the next best that is not, with a line for the report.

    Only of what is scored: a teacher, a surrogate or a start must be the network that was meant, so `load_run` refuses.
    """
    return _load(remote.local(workdir, "workdir"), network, checkpoint, others=True)


def _load(workdir: pathlib.Path, network: str | None, checkpoint: str, *, others: bool) -> Loaded:
    config, described = read_config(workdir), read_data(workdir)
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, CHECKPOINTS, "checkpoint")
    method = create_method(config)
    network = choose(method, network, workdir)
    classes, image_shape = described["num_classes"], tuple(described["image_shape"])
    module = create_modules(config, method, classes)[network]
    checkpoints, damaged = open_checkpoints(workdir), None
    try:
        if checkpoints.last is None:
            raise InputError(f"the run in {workdir} has no checkpoint yet")
        best = checkpoints.best if checkpoint == "best" else None
        numbers = [checkpoints.last] if best is None else checkpoints.ranked if others else [best]
        for number in numbers:
            try:
                saved = checkpoints.restore_networks(number)
                break
            except Damaged as error:
                damaged = damaged or error
        else:
            assert damaged is not None
            other = "last" if best not in (None, checkpoints.last) else ""
            raise Damaged(f"{damaged}{f'; checkpoint {other!r} is another' if other else ''}") from None
    finally:
        checkpoints.close()
    variables = {"params": saved["params"][network], "batch_stats": saved["stats"].get(network) or {}}
    check_variables(variables, module, cast("tuple[int, int, int]", image_shape), f"checkpoint in {workdir}")
    return Loaded(module, variables, number, f"{damaged}; the next best, {number}, is used" if damaged else "")


def check_space(workdir: pathlib.Path, needed: int) -> None:
    """Raises `InputError` if the disk under a run's folder, made yet or not, has less space than checkpoints need."""
    place = next(parent for parent in (workdir, *workdir.absolute().parents) if is_there(parent))
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            f"workdir {workdir} is on a disk with {free / 1e9:.2f} GB left, checkpoints need {needed / 1e9:.2f} GB "
            "(checkpoint.keep and two more)"
        )


def put_aside(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Damaged checkpoints that training went back over, the run's own and its teachers'."""
    return sorted([*workdir.glob("damaged-checkpoint-*"), *workdir.glob("teachers/*/damaged-checkpoint-*")])


def choose(method: Method, network: str | None, workdir: str | os.PathLike[str]) -> str:
    """`network`, if the method has it; the first that it evaluates if absent."""
    names = dict.fromkeys((*method.trained, *method.averaged))
    if network and network not in names:
        raise unknown(f"network of the run in {workdir}", network, names, "network")
    return network or method.evaluated[0]


def check_place(folder: str | os.PathLike[str], field: str = "workdir") -> None:
    """Raises `InputError` if a folder is an address such as gs://bucket/run, which would become a folder named `gs:`."""
    if remote.is_address(folder):
        raise InputError(
            f"must be a folder; mount the bucket (gcsfuse, mountpoint-s3): it is {os.fspath(folder)}", field
        )


def create(workdir: pathlib.Path) -> None:
    """Creates the folder of a run if need be.

    Raises:
        InputError: it cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise InputError(
            f"workdir must be a folder that can be written to, {workdir} cannot: {error.strerror}"
        ) from None


def prepare(workdir: pathlib.Path, experiment: Experiment) -> None:
    """Creates the folder of a run with `config.json` and `data.json`, or checks that it is this run's.

    Raises:
        InputError: the folder cannot be written to, or holds a run that trains something else.
    """
    described = describe_data(experiment)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / "config.json").exists():
            old = schema.plain(read_config(workdir))
            if differences := schema.training_differences(old, experiment.plain):
                raise InputError(
                    f"workdir {workdir} holds a run with another config ({'; '.join(differences)}): "
                    "choose another --workdir, or the same fields"
                )
            _check_data(workdir, described)
        write_atomically(workdir / "data.json", json.dumps(described) + "\n")
        write_json(workdir / "config.json", experiment.plain)
    except OSError as error:
        raise InputError(
            f"workdir must be a folder that can be written to, {workdir} cannot: {error.strerror}"
        ) from None


def _check_data(workdir: pathlib.Path, now: dict[str, Any]) -> None:
    """Raises `InputError` if the run began on other images or labels."""
    before = read_data(workdir).get("sha256", now["sha256"])
    for part in {**before, **now["sha256"]}:
        if before.get(part) != now["sha256"].get(part):
            field = "data.extra.path" if part == "extra" else "data.path"
            raise InputError(
                f"workdir {workdir} holds a run that began on another {part} set ({field}): choose another --workdir, "
                "or the same data"
            )


def describe_data(experiment: Experiment) -> dict[str, Any]:
    """What `data.json` says of the data: sizes, hashes, and which images are held out."""
    dataset, extra = experiment.dataset, experiment.parts.extra
    parts = {"training": dataset.train, "test": dataset.test}
    if extra is not None:
        # All labels and a thousand images tell a file from another; there may be a hundred gigabytes of them.
        parts["extra"] = Split(extra.image[:: -(-len(extra.label) // 1000)], extra.label)
    return {
        "name": dataset.name,
        "num_classes": dataset.num_classes,
        "image_shape": list(dataset.image_shape),
        "train": len(dataset.train.label),
        "validation": len(experiment.validation.label),
        "test": len(dataset.test.label),
        **({"extra": len(extra.label)} if extra is not None else {}),
        "sha256": {part: sha256_of(split) for part, split in parts.items()},
        "validation_index": experiment.parts.validation_index.tolist(),
    }


def sha256_of(split: Split) -> str:
    """SHA-256 of a part's labels and images; of pictures that are not in memory, of what identifies them."""
    digest = hashlib.sha256(np.ascontiguousarray(split.label, "<i4").tobytes())
    images: Any = split.image
    digest.update(np.ascontiguousarray(images).data if split.in_memory else images.identity())
    return digest.hexdigest()


def read_report(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What `report.json` in a folder says; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    return need_report(workdir) if is_there(workdir / "report.json") else None


def need_report(workdir: pathlib.Path, whole: bool = False) -> dict[str, Any]:
    """What `report.json` in a folder says; with `whole`, everything that its pages show.

    Raises:
        InputError: there is none, or it is damaged.
    """
    report = read_json(workdir, "report.json")
    check_report(report, str(workdir / "report.json"), whole)
    return report


_OF_DATA = {"name": str, "train": int, "validation": int, "test": int, "sha256": dict, "validation_index": list}


def read_data(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """What `data.json` in a run's folder says, at least num_classes and image_shape.

    Raises:
        InputError: there is none, or it is damaged.
    """
    described, path = read_json(workdir, "data.json"), pathlib.Path(workdir) / "data.json"
    shape = described.get("image_shape")
    sizes = [described.get("num_classes"), *(shape if isinstance(shape, list) else ())]
    if len(sizes) != 4 or not all(type(size) is int and 1 <= size < 2**31 for size in sizes):
        raise InputError(f"{path} does not say num_classes and image_shape")
    for name, kind in _OF_DATA.items():
        if not isinstance(described.get(name, kind()), kind):
            raise InputError(f"{path} is damaged: {name} is {shown(described[name])}")
    return described


def is_of(report: Mapping[str, Any] | None, config: Config) -> bool:
    """Whether a report is that of exactly this config."""
    return report is not None and report.get("config_hash") == schema.config_hash(schema.plain(config))


def is_finished(workdir: pathlib.Path, config: Config) -> bool:
    """Whether the folder holds the report of exactly this config."""
    return is_of(read_json(workdir, "report.json") if is_there(workdir / "report.json") else None, config)
