"""Finished runs: what lies in a workdir, and how to get a network out of it."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import flax.linen as nn

from advjax.data import Split
from advjax.errors import InputError, unknown
from advjax.evaluate import mean_over_networks, params_sha256, warnings, write, write_atomically
from advjax.evaluate.score import Subject, Surrogate, score
from advjax.models import logits_fn
from advjax.training.checkpoints import Checkpoints
from advjax.training.experiment import (
    Experiment,
    check_variables,
    config_hash,
    create_method,
    create_modules,
    network_options,
    training_differences,
)
from advjax.training.log import Display
from advjax.version import __version__

CHECKPOINTS = ("best", "last")


def read_json(workdir: pathlib.Path, name: str) -> dict[str, Any]:
    """The JSON file `name` of a workdir.

    Raises:
        InputError: there is none, or it is not JSON.
    """
    path = workdir / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{workdir} is not the folder of a run: it has no {name}") from None
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def load_run(
    workdir: str | os.PathLike[str], network: str | None = None, checkpoint: str = "best"
) -> tuple[nn.Module, dict[str, Any]]:
    """A network of a finished run.

    Args:
        workdir: the run's folder.
        network: the network's name in its method; the first that the method evaluates if absent.
        checkpoint: `"best"` (robust accuracy on the validation split; the last where there was none) or `"last"`.

    Returns:
        The linen module and its variables, `{"params": ..., "batch_stats": ...}`. `advjax.logits_fn(module, variables)`
        makes the function that attacks take.

    Raises:
        InputError: no run, no checkpoint or no network of that name.
    """
    workdir = pathlib.Path(workdir)
    config, data = read_json(workdir, "config.json"), read_json(workdir, "data.json")
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, CHECKPOINTS)
    method = create_method(config)
    names = (*method.trained, *method.averaged)
    network = network or method.evaluated[0]
    if network not in names:
        raise unknown(f"network of the run in {workdir}", network, names)
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"the run in {workdir} has no checkpoint yet")
    module = create_modules(config, method, data["num_classes"])[network]
    checkpoints = Checkpoints(workdir / "checkpoints", config["checkpoint"]["every"])
    try:
        epoch = (checkpoints.best if checkpoint == "best" else None) or checkpoints.last
        if epoch is None:
            raise InputError(f"the run in {workdir} has no checkpoint yet")
        saved = checkpoints.restore_networks(epoch)
    finally:
        checkpoints.close()
    variables = {"params": saved["params"][network], "batch_stats": saved["stats"].get(network) or {}}
    check_variables(variables, module, tuple(data["image_shape"]), f"checkpoint in {workdir}")
    return module, variables


def prepare_workdir(workdir: pathlib.Path, experiment: Experiment) -> None:
    """Creates the folder of a run with `config.json` and `data.json`, or checks that it is this run's.

    Raises:
        InputError: the folder cannot be written to, or holds a run that trains something else.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / "config.json").exists():
            old = read_json(workdir, "config.json")
            if differences := training_differences(old, experiment.config):
                raise InputError(
                    f"workdir {workdir} holds a run with another config ({'; '.join(differences)}): "
                    "choose another --workdir, or the same fields"
                )
        write_atomically(workdir / "data.json", json.dumps(_describe_data(experiment)) + "\n")
        write_atomically(workdir / "config.json", json.dumps(experiment.config, indent=2) + "\n")
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
        "validation_index": experiment.validation_index.tolist(),
    }


def is_finished(workdir: pathlib.Path, config: dict[str, Any]) -> bool:
    """Whether the folder holds the report of exactly this config."""
    return (workdir / "report.json").exists() and read_json(workdir, "report.json").get("config_hash") == config_hash(
        config
    )


def _surrogate(experiment: Experiment) -> Surrogate | None:
    """The network that transfer attacks are crafted on: a teacher by its name, or a finished run by its folder."""
    name = experiment.config["evaluation"]["surrogate"]
    if not name:
        return None
    if name in experiment.frozen:
        return Surrogate(name, logits_fn(experiment.modules[name], experiment.frozen[name]))
    return Surrogate(name, logits_fn(*load_run(name)))


def evaluate_run(experiment: Experiment, workdir: pathlib.Path, display: Display) -> dict[str, Any]:
    """Evaluates a trained run as its config says and writes `report.json` and `report.md`.

    Every network that the method evaluates, at its last checkpoint and, where there is a validation split, at its best.

    Returns:
        The report.
    """
    from advjax.training import teachers

    config, evaluation = experiment.config, experiment.config["evaluation"]
    attacks = experiment.attacks
    examples = evaluation["examples"] or len(experiment.dataset.test.label)
    test = Split(*(array[:examples] for array in experiment.dataset.test))
    surrogate = _surrogate(experiment)
    checkpoints = ("best", "last") if len(experiment.validation.label) else ("last",)
    networks, results = {}, []
    for network in experiment.method.evaluated:
        for checkpoint in checkpoints:
            module, variables = load_run(workdir, network, checkpoint)
            sha256 = params_sha256(variables)
            if checkpoint == "last":
                networks[network] = {"architecture": network_options(config, network)["name"], "params_sha256": sha256}
            results += score(
                Subject(network, checkpoint, logits_fn(module, variables), sha256, config["precision"]),
                attacks,
                test,
                protocol=evaluation["protocol"],
                directory=workdir / "evaluation" / f"{network}-{checkpoint}",
                display=display,
                seed=evaluation["seed"],
                batch_size=evaluation["batch_size"],
                devices=experiment.devices,
                surrogate=surrogate,
            )
    known = read_json(workdir, teachers.FILE) if experiment.teachers else {}
    report = {
        "method": config["method"]["name"],
        "config_hash": config_hash(config),
        "version": __version__,
        "eps": experiment.eps,
        "norm": experiment.norm,
        "networks": networks,
        **({"teachers": known} if known else {}),
        "results": results,
        **({"mean": mean_over_networks(results)} if experiment.method.interchangeable else {}),
        "warnings": warnings(results) + teachers.doubts(known, experiment.dataset.num_classes),
    }
    for warning in report["warnings"]:
        display.line(f"warning: {warning}")
    write(workdir, report)
    return report
