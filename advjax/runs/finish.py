"""One function that finishes a run: teachers, training, evaluation, report, figures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from advjax import compiling, models
from advjax.data import Split
from advjax.errors import InputError
from advjax.evaluate import attack_dataset, clean, params_sha256, pgd_steps
from advjax.files import read_json, write_json
from advjax.runs import compilation_cache, memory, plots, schema, workdir
from advjax.runs.build import build
from advjax.runs.display import Display
from advjax.runs.evaluate import evaluate_experiment, write_report
from advjax.runs.experiment import Experiment, Teacher
from advjax.runs.interrupts import Interrupts, alone, listening
from advjax.runs.metrics import read_metrics
from advjax.runs.schema import Config
from advjax.runs.teachers import near_chance
from advjax.runs.train import state_bytes, train

TEACHERS = "teachers.json"
TEACHER_EXAMPLES = 1000


def finish(
    config: Config | ConfigDict | Mapping[str, Any],
    folder: str | os.PathLike[str],
    display: Display | None = None,
) -> dict[str, Any]:
    """Trains and evaluates what a config describes, or goes on where an earlier call stopped.

    Args:
        config: what to do (`advjax.runs.default`).
        folder: the run's folder, its workdir; created if need be.
        display: the terminal; plain lines or a progress bar as it allows if absent.

    Returns:
        The report, which is that of `report.json` if everything was done before.

    Raises:
        InputError: a field that is wrong, a folder that cannot be written to, that holds another run or in which another
            process is at work; training that diverged.
        Stopped: by SIGTERM or SIGINT; everything is saved.
    """
    display, folder = display or Display(), pathlib.Path(folder)
    config = config if isinstance(config, Config) else schema.read(config)
    if workdir.is_finished(folder, config):
        display.line(f"finished already: {folder / 'report.md'}")
        return read_json(folder, "report.json")
    experiment = build(config)
    for warning in experiment.dataset.warnings:
        display.line(f"warning: {warning}")
    workdir.check_space(folder, (config.checkpoint.keep + 2) * state_bytes(experiment))
    compilation_cache.enable(config.compilation_cache)
    workdir.create(folder)
    with alone(folder), listening() as interrupts:
        workdir.prepare(folder, experiment)
        experiment, known = prepare_teachers(experiment, folder, display, interrupts)
        train(experiment, folder, display, interrupts)
        plots.training(read_metrics(folder / "metrics.jsonl"), folder / "training.png", config.method["name"])
        report = evaluate_experiment(experiment, folder, display, known, interrupts)
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
    known = read_json(folder, TEACHERS) if (folder / TEACHERS).exists() else {}
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
        workdir.prepare(place, training)
    train(training, place, display, interrupts)  # of a finished one, its last checkpoint is held to its hash
    module, variables = workdir.load_run(place, teacher.member or None, teacher.checkpoint)
    return teacher._replace(module=module, variables=variables)


def _measure(
    teacher: Teacher, sha256: str, experiment: Experiment, display: Display, interrupts: Interrupts
) -> dict[str, Any]:
    """What the report says of a teacher. Its accuracies are those on the first test images."""
    test = Split(*(array[:TEACHER_EXAMPLES] for array in experiment.dataset.test))
    evaluation, logits_fn = experiment.config.evaluation, models.logits_fn(teacher.module, teacher.variables)
    attack, accuracy = pgd_steps(20, experiment.norm, experiment.eps), {}
    for each in (clean(), attack):
        with memory.enough(memory.for_evaluation(evaluation.batch_size)):
            outcome = attack_dataset(
                logits_fn,
                each,
                test,
                seed=evaluation.seed,
                batch_size=evaluation.batch_size,
                devices=experiment.devices,
                progress=lambda done, total: interrupts.obey(f"the measurement of teacher {teacher.role}"),
            )
        accuracy[each.name] = outcome.accuracy
        if each.name == "clean" and outcome.accuracy <= near_chance(experiment.dataset.num_classes):
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
        "trained_by": teacher.training.config.method["name"] if teacher.training else None,
        "params_sha256": sha256,
        "clean_accuracy": accuracy["clean"],
        "robust_accuracy": accuracy[attack.name],
        "attack": attack.name,
        "n": len(test.label),
    }
