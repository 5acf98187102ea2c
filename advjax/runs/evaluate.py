"""Scoring a network by a protocol: the rows of a report, a record of every example, and the terminal kept informed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from advjax import evaluate, models
from advjax.data import Dataset, Split
from advjax.evaluate import Attack, Outcome, params_sha256, per_example, result_row, run_protocol
from advjax.evaluate.protocols import LogitsFn
from advjax.files import write_atomically, write_json
from advjax.runs import memory, schema, teachers
from advjax.runs.display import Display
from advjax.runs.experiment import Experiment
from advjax.runs.interrupts import Interrupts
from advjax.runs.networks import network_options
from advjax.runs.workdir import load_run, open_checkpoints, put_aside, sha256_of
from advjax.training.checkpoints import Damaged


class Subject(NamedTuple):
    """The network that is scored.

    Attributes:
        name: of the network in its method, or what the user calls it.
        checkpoint: `"last"` or `"best"`; `"given"` for weights from elsewhere.
        logits_fn: evaluation mode.
        sha256: of its variables, or whatever tells its weights from others.
        dtype: precision of its computation.
    """

    name: str
    checkpoint: str
    logits_fn: LogitsFn
    sha256: str
    dtype: str


class Surrogate(NamedTuple):
    """The network that transfer attacks are crafted on."""

    name: str
    logits_fn: LogitsFn


def score(
    subject: Subject,
    attacks: Sequence[Attack],
    split: Split,
    *,
    protocol: str,
    directory: pathlib.Path,
    display: Display,
    seed: int,
    batch_size: int,
    devices: Sequence[jax.Device],
    surrogate: Surrogate | None = None,
    interrupts: Interrupts | None = None,
) -> list[dict[str, Any]]:
    """Runs a protocol on a network.

    Outcomes are appended to records in `directory` as they are known, so that the same call again goes on from there;
    at the end one line per example lies in `directory/examples-PROTOCOL.jsonl`.

    Returns:
        One result row per attack, in the protocol's order.
    """
    where = f"{subject.name} ({subject.checkpoint})"
    rows: list[dict[str, Any]] = []
    accuracy: dict[str, float] = {}

    def on_start(attack: Attack, total: int) -> None:
        display.start(f"{where}: {attack.name}", total)

    def progress(done: int, total: int) -> None:
        display.update(done, total)
        if interrupts and interrupts.signal:
            display.stop()
            interrupts.obey("the evaluation")

    def on_done(attack: Attack, outcome: Outcome) -> None:
        display.stop()
        accuracy[attack.name] = outcome.accuracy
        row = result_row(
            attack,
            outcome,
            accuracy["clean"],
            network=subject.name,
            checkpoint=subject.checkpoint,
            protocol=protocol,
            seed=seed,
            dtype=subject.dtype,
            device=f"{len(devices)} x {devices[0].device_kind}",
            surrogate=surrogate.name if surrogate else None,
        )
        rows.append(row)
        display.line(f"{where}: {attack.name:<14} {row['accuracy']:7.2%}  of {row['n']} images")

    with memory.enough(memory.for_evaluation(batch_size)):
        outcomes = run_protocol(
            subject.logits_fn,
            attacks,
            split,
            directory=directory,
            network_hash=subject.sha256,
            surrogate=surrogate.logits_fn if surrogate else None,
            on_start=on_start,
            on_done=on_done,
            seed=seed,
            batch_size=batch_size,
            devices=devices,
            progress=progress,
        )
    lines = "".join(json.dumps(example) + "\n" for example in per_example(outcomes))
    write_atomically(directory / f"examples-{protocol}.jsonl", lines)
    left_out = [attack.name for attack in attacks if attack.name not in outcomes]
    if left_out:
        display.line(f"{where}: left out for want of a surrogate network: {', '.join(left_out)}")
    return rows


def evaluate_experiment(
    experiment: Experiment,
    workdir: pathlib.Path,
    display: Display,
    known: dict[str, Any],
    interrupts: Interrupts | None = None,
) -> dict[str, Any]:
    """Evaluates a trained run as its config says.

    Every network that the method evaluates, at its last checkpoint and, where there is a validation split, at its best;
    where the two are one, it is run once.

    Args:
        experiment: what was trained.
        workdir: where its checkpoints are; records and examples go to `evaluation/`.
        display: the terminal.
        known: what is known of the teachers, by role, for the report.
        interrupts: says when to stop; every outcome that is known is recorded.

    Returns:
        The report.
    """
    config, evaluation = experiment.config, experiment.config.evaluation
    examples = evaluation.examples or len(experiment.dataset.test.label)
    test = Split(*(array[:examples] for array in experiment.dataset.test))
    surrogate = _surrogate(experiment)
    networks, results, damaged = {}, [], []
    for network in experiment.method.evaluated:
        rows: dict[int, list[dict[str, Any]]] = {}
        for checkpoint, epoch in chosen_epochs(experiment, workdir).items():
            if epoch not in rows:
                try:
                    module, variables = load_run(workdir, network, checkpoint)
                except Damaged as error:
                    if checkpoint == "last":
                        raise
                    damaged.append(f"{network}: {error}; there are no results of the best checkpoint")
                    continue
                sha256 = params_sha256(variables)
                rows[epoch] = score(
                    Subject(network, checkpoint, models.logits_fn(module, variables), sha256, config.precision),
                    experiment.attacks,
                    test,
                    protocol=evaluation.protocol,
                    directory=workdir / "evaluation" / f"{network}-{checkpoint}",
                    display=display,
                    seed=evaluation.seed,
                    batch_size=evaluation.batch_size,
                    devices=experiment.devices,
                    surrogate=surrogate,
                    interrupts=interrupts,
                )
            if checkpoint == "last":
                architecture = network_options(config, experiment.method.averaged.get(network, network))[1]["name"]
                networks[network] = {"architecture": architecture, "params_sha256": sha256}
            results += [{**row, "checkpoint": checkpoint} for row in rows[epoch]]
    return evaluate.assemble(
        config.method["name"],
        schema.config_hash(experiment.plain),
        experiment.norm,
        experiment.eps,
        networks,
        results,
        data=_named(experiment.dataset),
        teachers=known,
        doubts=[
            *experiment.dataset.warnings,
            *damaged,
            *teachers.doubts(known, experiment.dataset.num_classes),
            *(
                f"{place.relative_to(workdir)}: it was damaged, and the checkpoint before it used"
                for place in put_aside(workdir)
            ),
        ],
        peers=experiment.method.interchangeable,
    )


def _named(dataset: Dataset) -> dict[str, Any]:
    return {"name": dataset.name, "test_sha256": sha256_of(dataset.test)}


def chosen_epochs(experiment: Experiment, workdir: pathlib.Path) -> dict[str, int]:
    """Name of the checkpoint (`best` where there is a validation split, `last`) -> its epoch."""
    checkpoints = open_checkpoints(workdir)
    try:
        last = checkpoints.last
        assert last is not None
        best = {"best": checkpoints.best or last} if len(experiment.validation.label) else {}
        return {**best, "last": last}
    finally:
        checkpoints.close()


def _surrogate(experiment: Experiment) -> Surrogate | None:
    """The network that transfer attacks are crafted on: a teacher by its name, or a finished run by its folder."""
    name = experiment.config.evaluation.surrogate
    if not name:
        return None
    network = experiment.surrogate or (experiment.modules[name], experiment.frozen[name])
    return Surrogate(name, models.logits_fn(*network))


def write_report(folder: pathlib.Path, report: dict[str, Any], display: Display) -> None:
    """Writes `report.md` and `report.json`, each whole or not at all; the JSON last: it marks the run as finished."""
    for warning in report["warnings"]:
        display.line(f"warning: {warning}")
    write_atomically(folder / "report.md", evaluate.markdown(report))
    write_json(folder / "report.json", report)
    display.line(f"report: {folder / 'report.md'}")
