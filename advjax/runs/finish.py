"""One function that finishes a run: teachers, training, evaluation, report, figures."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from advjax import compiling, hosts, models, remote
from advjax.data import Split
from advjax.errors import InputError
from advjax.evaluate import Attack, attack_dataset, clean, params_sha256, pgd_steps
from advjax.files import named, read_json, write_json
from advjax.runs import compilation_cache, memory, plots, schema, wording, workdir
from advjax.runs.build import build
from advjax.runs.display import Display, Silent
from advjax.runs.evaluate import evaluate_experiment, write_report
from advjax.runs.experiment import Experiment, Teacher
from advjax.runs.interrupts import Interrupts, alone, listening
from advjax.runs.metrics import read_metrics
from advjax.runs.mirror import Mirror
from advjax.runs.schema import Config
from advjax.runs.teachers import doubts, near_chance
from advjax.runs.train import state_bytes, train
from advjax.runs.writers import publish
from advjax.version import __version__

TEACHERS = "teachers.json"
TEACHER_EXAMPLES = 1000


def finish(
    config: Config | ConfigDict | Mapping[str, Any],
    folder: str | os.PathLike[str],
    display: Display | None = None,
) -> dict[str, Any]:
    """Trains and evaluates what a config describes, or goes on where an earlier call stopped.

    Where `config.hosts` says so, it does that as one of several processes that all make this call (`advjax.hosts`): the
    first one prints and writes, in a folder that all of them see.

    Args:
        config: what to do (`advjax.runs.default`).
        folder: the run's folder, its workdir; created if need be. An address (gs://bucket/run) stands for a folder of the
            user's cache that is copied there (`advjax.runs.mirror`).
        display: the terminal; plain lines or a progress bar as it allows if absent.

    Returns:
        The report, which is that of `report.json` if everything was done before.

    Raises:
        InputError: a field that is wrong, a folder that cannot be written to, that holds another run or in which another
            process is at work; training that diverged; another process of the run that was given something else.
        Stopped: by SIGTERM or SIGINT; everything is saved.
        Gone: another process of the run is.
    """
    config = config if isinstance(config, Config) else schema.read(config)
    mirror = Mirror(folder) if remote.is_address(folder) else None
    if mirror is None:
        workdir.check_place(folder)
    folder = mirror.folder if mirror else pathlib.Path(folder)
    hosts.join(config.hosts, config.hosts_timeout)
    with hosts.together():
        # Where this process stands among the others is no part of what is trained, saved and hashed.
        config = dataclasses.replace(config, hosts=hosts.AUTO)
        display = (display or Display()) if hosts.is_first() else Silent()
        hosts.check_same({"version": __version__, **schema.shared_fields(config)})
        if mirror and hosts.count() > 1:
            raise InputError(
                f"must be a folder that all {hosts.count()} processes see; mount the bucket: it is {mirror.address}",
                "workdir",
            )
        report = hosts.by_first(mirror.report if mirror else lambda: workdir.read_report(folder))
        if workdir.is_of(report, config):
            display.line(f"finished already: {mirror.address if mirror else folder}/report.md")
            return report
        experiment = build(config)
        return _finish(experiment, folder, display, mirror)


def _finish(experiment: Experiment, folder: pathlib.Path, display: Display, mirror: Mirror | None) -> dict[str, Any]:
    config = experiment.config
    display.header(**experiment.summary, folder=f"{mirror.address}, here {folder}" if mirror else str(folder))
    for warning in experiment.dataset.warnings:
        display.warning(warning)
    if experiment.multiplied:
        display.line(experiment.multiplied)
    if hosts.count() > 1:
        described = workdir.describe_data(experiment)
        hosts.check_same({f"data.{part}": sha256 for part, sha256 in described["sha256"].items()})
        display.line(f"{hosts.count()} processes, {len(experiment.devices)} devices")
    compilation_cache.enable(config.compilation_cache)

    def claim() -> None:
        workdir.check_space(folder, (config.checkpoint.keep + 2) * state_bytes(experiment))
        workdir.create(folder)
        stack.enter_context(alone(folder))
        if mirror:
            stack.enter_context(mirror.working(display, interrupts))
        workdir.prepare(folder, experiment)

    with contextlib.ExitStack() as stack, listening() as interrupts, named(folder):
        hosts.by_first(claim)
        hosts.check_shared(folder, "workdir")
        experiment, known = prepare_teachers(experiment, folder, display, interrupts)
        train(experiment, folder, display, interrupts)
        if hosts.is_first():
            name = wording.method(config.method["name"])
            plots.training(read_metrics(folder / "metrics.jsonl"), folder / "training.png", name)
        report = evaluate_experiment(experiment, folder, display, known, interrupts)
        if hosts.is_first():
            publish(experiment.writers, folder, config.epochs * experiment.steps_per_epoch, report)
            write_report(folder, report, display)
    compiling.forget_programs()  # a comparison finishes many runs in one process
    return report


def prepare_teachers(
    experiment: Experiment, folder: pathlib.Path, display: Display, interrupts: Interrupts | None = None
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with all its teachers: those that are given are checked, the others are then trained.

    What they are, hash and accuracies, goes into `teachers.json` and comes back beside it. Interrupted and called again,
    it goes on where it was.

    Raises:
        InputError: a teacher is near chance, or another one than when this run began.
    """
    known = hosts.by_first(lambda: read_json(folder, TEACHERS) if (folder / TEACHERS).exists() else {})
    if not all(isinstance(each, dict) and {"params_sha256", "source"} <= each.keys() for each in known.values()):
        raise InputError(f"{folder / TEACHERS} is damaged: it does not say of every teacher what it was")
    ready: dict[str, Teacher] = {}
    for name, teacher in sorted(experiment.teachers.items(), key=lambda item: item[1].training is not None):
        if teacher.training is not None:
            teacher = _trained(teacher, folder, display, interrupts)
        sha256, role = params_sha256(teacher.variables), teacher.role
        if role in known and known[role]["params_sha256"] != sha256:
            raise InputError(
                f"teachers.{role}: this run began with the teacher {known[role]['params_sha256'][:12]} "
                f"({known[role]['source']}), now it is {sha256[:12]}: choose another --workdir, or the same teacher"
            )
        if role not in known:
            known[role] = _measure(teacher, sha256, experiment, display, interrupts or Interrupts())
            if hosts.is_first():
                write_json(folder / TEACHERS, known)
        ready[name] = teacher
    return experiment._replace(teachers=ready), known


def _trained(teacher: Teacher, folder: pathlib.Path, display: Display, interrupts: Interrupts | None) -> Teacher:
    training, place = teacher.training, folder / teacher.source
    config = training.config
    if workdir.epochs_done(place) < config.epochs:
        display.line(
            f"teacher {teacher.role}: none is given (teachers.{teacher.role}.path), so it is trained first: "
            f"{config.method['name']}, {teacher.architecture}, {config.epochs} epochs, in {place}"
        )
        hosts.by_first(lambda: workdir.prepare(place, training))
    train(training, place, display, interrupts)  # of a finished one, its last checkpoint is held to its hash
    module, variables = workdir.load_run(place, teacher.member or None, teacher.checkpoint)
    return teacher._replace(module=module, variables=variables)


def _measure(
    teacher: Teacher, sha256: str, experiment: Experiment, display: Display, interrupts: Interrupts
) -> dict[str, Any]:
    """What the report says of a teacher: its accuracies on the first test images, and of a robust one on as many training
    images, as they are in its student's training set."""
    dataset, evaluation = experiment.dataset, experiment.config.evaluation
    test, train = (split.first(TEACHER_EXAMPLES) for split in (dataset.test, dataset.train))
    logits_fn, attack = (
        models.logits_fn(teacher.module, teacher.variables),
        pgd_steps(20, experiment.norm, experiment.eps),
    )

    def accuracy(each: Attack, split: Split) -> float:
        def progress(done: int, total: int, standing: int) -> None:
            hosts.check()
            interrupts.obey(f"the measurement of teacher {teacher.role}")

        with memory.enough(memory.for_evaluation(evaluation.batch_size)):
            return attack_dataset(
                logits_fn,
                each,
                split,
                seed=evaluation.seed,
                batch_size=evaluation.batch_size,
                devices=experiment.devices,
                progress=progress,
            ).accuracy

    clean_accuracy = accuracy(clean(), test)
    if clean_accuracy <= near_chance(dataset.num_classes):
        raise InputError(
            f"teachers.{teacher.role}: its accuracy on clean images is {clean_accuracy:.1%}, near chance for "
            f"{dataset.num_classes} classes: wrong weights, architecture or normalisation "
            f"(teachers.{teacher.role}.network), or too short a training"
        )
    made = {
        "architecture": teacher.architecture,
        "source": teacher.source,
        "trained_by": teacher.training.config.method["name"] if teacher.training else None,
        "params_sha256": sha256,
        "clean_accuracy": clean_accuracy,
        "robust_accuracy": accuracy(attack, test),
        "attack": attack.name,
        "n": len(test.label),
    }
    if teacher.role.startswith("robust"):
        made["robust_training_accuracy"] = accuracy(attack, train)
    display.line(
        f"teacher {teacher.role}: {teacher.architecture}, {teacher.source}: clean {clean_accuracy:.2%}, "
        f"{attack.name} {made['robust_accuracy']:.2%} of {len(test.label)} images"
    )
    return {**made, "warnings": doubts({teacher.role: made}, dataset.num_classes)}
