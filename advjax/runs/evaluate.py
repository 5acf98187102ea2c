"""Scoring a network by a protocol: the rows of a report, a record of every example, and the terminal kept informed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from advjax import evaluate, hosts, models, parallel
from advjax.data import Dataset, Split
from advjax.evaluate import Attack, Outcome, attack_dataset, params_sha256, per_example, result_row, run_protocol
from advjax.evaluate.attack_dataset import record_file
from advjax.evaluate.protocols import LogitsFn, OwnLoss
from advjax.files import write_atomically, write_json
from advjax.methods.adaptive import own_loss
from advjax.runs import exhibits, memory, pages, schema, teachers
from advjax.runs.display import Display
from advjax.runs.experiment import Experiment
from advjax.runs.interrupts import Interrupts
from advjax.runs.networks import network_options
from advjax.runs.workdir import load_whole, open_checkpoints, put_aside, sha256_of


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
    own_loss: OwnLoss | None = None,
    train: Split | None = None,
    interrupts: Interrupts | None = None,
) -> list[dict[str, Any]]:
    """Runs a protocol on a network.

    Outcomes are appended to records in `directory` as they are known, so that the same call again goes on from there;
    at the end one line per example lies in `directory/examples-PROTOCOL.jsonl`.

    `own_loss` is what rows on the method's own loss maximise. On the images `train` that the network was trained on, as
    they are, the protocol's PGD-20 (or PGD-10) is run once more; its row then has their accuracy, and by how much the
    test images' is lower.

    Returns:
        One result row per attack, in the protocol's order.
    """
    where = f"{subject.name} ({subject.checkpoint})"
    rows: list[dict[str, Any]] = []
    accuracy: dict[str, float] = {}

    def on_start(attack: Attack, total: int) -> None:
        display.start(f"{where}: {attack.name}", total)

    def progress(done: int, total: int, standing: int) -> None:
        display.update(done, total, f"{standing} stand")
        hosts.check()
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
        display.event("attack", f"{where}: {attack.name:<14} {row['accuracy']:7.2%}  of {row['n']} images", **row)

    with memory.enough(memory.for_evaluation(batch_size)):
        outcomes = run_protocol(
            subject.logits_fn,
            attacks,
            split,
            directory=directory,
            network_hash=subject.sha256,
            surrogate=surrogate.logits_fn if surrogate else None,
            own_loss=own_loss,
            on_start=on_start,
            on_done=on_done,
            seed=seed,
            batch_size=batch_size,
            devices=devices,
            progress=progress,
        )
    if hosts.is_first():
        lines = "".join(json.dumps(example) + "\n" for example in per_example(outcomes))
        write_atomically(directory / f"examples-{protocol}.jsonl", lines)
    pgd = next((attack for name in ("pgd20", "pgd10") for attack in attacks if attack.name == name), None)
    if train is not None and len(train.label) and pgd is not None:
        display.start(f"{where}: {pgd.name} on training images", len(train.label))
        outcome = attack_dataset(
            subject.logits_fn,
            pgd,
            train,
            seed=seed,
            batch_size=batch_size,
            devices=devices,
            progress=progress,
            record_path=record_file(directory / "train", pgd, seed),
            network_hash=subject.sha256,
        )
        display.stop()
        row = next(row for row in rows if row["attack"] == pgd.name)
        row |= {"train_accuracy": outcome.accuracy, "generalisation_gap": outcome.accuracy - row["accuracy"]}
    return rows


def doubts(results: Sequence[Mapping[str, Any]], attacks: Sequence[Attack], num_classes: int) -> list[str]:
    """Warnings about an evaluation as a whole: rows of the protocol that are missing, networks near chance."""
    done = {row["attack"] for row in results}
    left_out = [attack for attack in attacks if attack.name not in done]
    transfer = ", ".join(attack.name for attack in left_out if not attack.own_loss)
    own = ", ".join(attack.name for attack in left_out if attack.own_loss)
    found = [f"left out for want of a surrogate network (evaluation.surrogate): {transfer}"] if transfer else []
    found += [f"left out, since no loss of its own is known but the cross-entropy: {own}"] if own else []
    chance = teachers.near_chance(num_classes)
    return found + [
        f"{row['network']} ({row['checkpoint']}): its accuracy on clean images is {row['accuracy']:.2%}, near chance for "
        f"{num_classes} classes: it has learnt next to nothing, and robustness is not to be spoken of"
        for row in results
        if row["attack"] == "clean" and row["accuracy"] <= chance
    ]


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
    test = experiment.dataset.test.first(evaluation.examples)
    surrogate = _surrogate(experiment)
    # No more than test images: they share a compiled program.
    most = min(evaluation.train_examples, len(test.label))
    train = Split(*(array[:most] for array in experiment.dataset.train))
    networks: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    damaged: list[str] = []
    for network in experiment.method.evaluated:
        rows: dict[int, list[dict[str, Any]]] = {}
        for checkpoint, epoch in chosen_epochs(experiment, workdir).items():
            if epoch not in rows:
                module, variables, epoch, instead = load_whole(workdir, network, checkpoint)
                damaged += [f"{network} ({checkpoint}): {instead}"] if instead else []
            if epoch not in rows:
                sha256, logits_fn = params_sha256(variables), models.logits_fn(module, variables)
                rows[epoch] = score(
                    Subject(network, checkpoint, logits_fn, sha256, config.precision),
                    experiment.attacks,
                    test,
                    protocol=evaluation.protocol,
                    directory=workdir / "evaluation" / f"{network}-{checkpoint}",
                    display=display,
                    seed=evaluation.seed,
                    batch_size=evaluation.batch_size,
                    devices=experiment.devices,
                    surrogate=surrogate,
                    own_loss=_own_loss(experiment, workdir, network, checkpoint, variables),
                    train=train,
                    interrupts=interrupts,
                )
                if not results and hosts.is_first():  # a page shows the first in detail
                    collect_exhibits(experiment, logits_fn, workdir / "evaluation" / f"{network}-{checkpoint}", sha256)
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
            *doubts(results, experiment.attacks, experiment.dataset.num_classes),
            *damaged,
            *teachers.doubts(known, experiment.dataset.num_classes),
            *(
                f"{place.relative_to(workdir)}: it was damaged, and the checkpoint before it used"
                for place in put_aside(workdir)
            ),
        ],
        peers=experiment.method.interchangeable,
    )


def collect_exhibits(experiment: Experiment, logits_fn: LogitsFn, folder: pathlib.Path, sha256: str) -> None:
    """Keeps in `folder` what a page shows of a network beside its numbers (`exhibits.collect`)."""
    evaluation = experiment.config.evaluation
    exhibits.collect(
        logits_fn,
        experiment.attacks,
        experiment.dataset,
        folder,
        network_hash=sha256,
        eps=experiment.eps,
        examples=evaluation.examples or len(experiment.dataset.test.label),
        seed=evaluation.seed,
        batch_size=evaluation.batch_size,
        devices=parallel.local_devices(),
    )


def _own_loss(
    experiment: Experiment, workdir: pathlib.Path, network: str, checkpoint: str, variables: Any
) -> OwnLoss | None:
    """What the protocol's rows on the method's own loss maximise, where it has such rows."""
    if not any(attack.own_loss for attack in experiment.attacks):
        return None
    method = experiment.method
    attacked = method.averaged.get(network, network)
    every = {**experiment.frozen, attacked: variables, network: variables}
    for name in {*method.trained, *method.averaged} - set(every):
        every[name] = load_whole(workdir, name, checkpoint).variables
    shape = experiment.dataset.image_shape
    classes, epochs = experiment.dataset.num_classes, experiment.config.epochs
    return own_loss(method, attacked, experiment.modules, every, classes, epochs, shape)


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
    """Writes `report.md`, `report.html` and `report.json`, each whole or not at all; the JSON last: it marks the run as
    finished."""
    for warning in report["warnings"]:
        display.warning(warning)
    pages.note_about(folder)
    pages.write(folder, report)
    write_json(folder / "report.json", report)
    display.results(report["results"])
    display.event(
        "report", f"report: {folder / 'report.md'}, {folder / 'report.html'}", path=str(folder / "report.json")
    )
