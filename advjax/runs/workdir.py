"""What lies in a run's folder, and how to get a network out of it."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import flax.linen as nn

from advjax.errors import InputError, unknown
from advjax.files import read_json, write_atomically, write_json
from advjax.methods import Method
from advjax.models import check_variables
from advjax.runs import schema
from advjax.runs.experiment import Experiment
from advjax.runs.networks import create_method, create_modules
from advjax.runs.schema import Config
from advjax.training.checkpoints import Checkpoints

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


def load_run(
    workdir: str | os.PathLike[str], network: str | None = None, checkpoint: str = "best"
) -> tuple[nn.Module, dict[str, Any]]:
    """A network of a finished run.

    Args:
        workdir: the run's folder.
        network: the network's name in its method; the first that the method evaluates if absent.
        checkpoint: `"best"` (by accuracy on the validation split; the last where there was none) or `"last"`.

    Returns:
        The linen module and its variables, `{"params": ..., "batch_stats": ...}`. `advjax.logits_fn(module, variables)`
        makes the function that attacks take.

    Raises:
        InputError: no run, no checkpoint or no network of that name.
    """
    config, described = read_config(workdir), read_json(workdir, "data.json")
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, CHECKPOINTS, "checkpoint")
    method = create_method(config)
    network = choose(method, network, workdir)
    try:
        classes, image_shape = int(described["num_classes"]), tuple(map(int, described["image_shape"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{pathlib.Path(workdir) / 'data.json'} does not say num_classes and image_shape") from None
    module = create_modules(config, method, classes)[network]
    checkpoints = open_checkpoints(workdir)
    try:
        number = (checkpoints.best if checkpoint == "best" else None) or checkpoints.last
        if number is None:
            raise InputError(f"the run in {workdir} has no checkpoint yet")
        saved = checkpoints.restore_networks(number)
    finally:
        checkpoints.close()
    variables = {"params": saved["params"][network], "batch_stats": saved["stats"].get(network) or {}}
    check_variables(variables, module, image_shape, f"checkpoint in {workdir}")
    return module, variables


def put_aside(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Damaged checkpoints that training went back over."""
    return sorted(workdir.glob("damaged-checkpoint-*"))


def choose(method: Method, network: str | None, workdir: str | os.PathLike[str]) -> str:
    """`network`, if the method has it; the first that it evaluates if absent."""
    names = (*method.trained, *method.averaged)
    if network and network not in names:
        raise unknown(f"network of the run in {workdir}", network, names, "network")
    return network or method.evaluated[0]


def prepare(workdir: pathlib.Path, experiment: Experiment) -> None:
    """Creates the folder of a run with `config.json` and `data.json`, or checks that it is this run's.

    Raises:
        InputError: the folder cannot be written to, or holds a run that trains something else.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / "config.json").exists():
            old = schema.plain(read_config(workdir))
            if differences := schema.training_differences(old, experiment.plain):
                raise InputError(
                    f"workdir {workdir} holds a run with another config ({'; '.join(differences)}): "
                    "choose another --workdir, or the same fields"
                )
        write_atomically(workdir / "data.json", json.dumps(_describe_data(experiment)) + "\n")
        write_json(workdir / "config.json", experiment.plain)
    except OSError as error:
        raise InputError(
            f"workdir must be a folder that can be written to, {workdir} cannot: {error.strerror}"
        ) from None


def _describe_data(experiment: Experiment) -> dict[str, Any]:
    dataset = experiment.dataset
    return {
        "name": dataset.name,
        "num_classes": dataset.num_classes,
        "image_shape": list(dataset.image_shape),
        "train": len(dataset.train.label),
        "validation": len(experiment.validation.label),
        "test": len(dataset.test.label),
        "validation_index": experiment.parts.validation_index.tolist(),
    }


def is_finished(workdir: pathlib.Path, config: Config) -> bool:
    """Whether the folder holds the report of exactly this config."""
    if not (workdir / "report.json").exists():
        return False
    return read_json(workdir, "report.json").get("config_hash") == schema.config_hash(schema.plain(config))
