"""What a run would be, and how long it would take, without starting it."""

from __future__ import annotations

import json
import time
from typing import Any

import jax

from advjax import models, parallel
from advjax.data import Course, stream
from advjax.runs.display import Display, duration
from advjax.runs.experiment import Experiment
from advjax.runs.train import first_state, make_trainer


def describe(experiment: Experiment, display: Display) -> None:
    """Prints config, data, parameter counts and a time estimate; writes nothing."""
    dataset = experiment.dataset
    display.line(json.dumps(experiment.plain, indent=2))
    display.line(
        f"data: {dataset.name}, {dataset.num_classes} classes, images {dataset.image_shape}, "
        f"{len(dataset.train.label)} to train, {len(experiment.validation.label)} to validate, "
        f"{len(dataset.test.label)} to test, {'in memory' if dataset.train.in_memory else 'streamed'}"
    )
    for name, module in experiment.modules.items():
        count = models.parameter_count(module, dataset.image_shape)
        display.line(f"network {name}: {type(module).__name__}, {count:,} parameters")
    display.line(f"devices: {len(experiment.devices)} x {experiment.devices[0].device_kind}")
    for teacher in experiment.teachers.values():
        how = teacher.source
        if teacher.training is not None:
            config = teacher.training.config
            how = f"trained first with {config.method['name']}, {config.epochs} epochs; {_time(teacher.training)}"
        display.line(f"teacher {teacher.role}: {teacher.architecture}, {how}")
    display.line(f"time: {_time(with_stand_ins(experiment))}, validation and evaluation apart")


def with_stand_ins(experiment: Experiment) -> Experiment:
    """The experiment with fresh variables in place of teachers that have yet to be trained, to measure its speed."""
    shape = experiment.dataset.image_shape
    teachers = {
        name: teacher
        if teacher.variables is not None
        else teacher._replace(variables=models.init(teacher.module, jax.random.key(0), shape))
        for name, teacher in experiment.teachers.items()
    }
    return experiment._replace(teachers=teachers)


def _time(experiment: Experiment) -> str:
    compiling, step = time_step(experiment)
    steps = experiment.steps_per_epoch * experiment.config.epochs
    return (
        f"{compiling:.1f} s to the first step, then {step:.3f} s a step; {steps} steps take about "
        f"{duration(compiling + step * steps)}"
    )


def time_step(experiment: Experiment, repeats: int = 3) -> tuple[float, float]:
    """(seconds to compile and run the first step, seconds of a further one), measured on the devices at hand.

    Of images that stream, of the first batch, which is decoded before.
    """
    trainer, train = make_trainer(experiment), experiment.dataset.train
    config, per_epoch = experiment.config, 0 if train.in_memory else experiment.steps_per_epoch
    step = trainer.program(trainer.phase(0), experiment.dataset.image_shape, per_epoch)
    state, frozen = trainer.place((first_state(trainer, experiment), experiment.frozen))
    if train.in_memory:
        rest: tuple[Any, ...] = (frozen, trainer.data(train), trainer.order(len(train.label), config.batch_size, 0))
    else:
        share = parallel.share_of(experiment.devices)
        course = Course(config.seed, len(train.label), config.batch_size, config.epochs, host=share)
        rest = (frozen, trainer.send(next(stream(train, course))))
    started = time.perf_counter()
    state, metrics = jax.block_until_ready(step(state, *rest))
    compiling, started = time.perf_counter() - started, time.perf_counter()
    for _ in range(repeats):
        state, metrics = step(state, *rest)
    jax.block_until_ready(metrics)
    return compiling, (time.perf_counter() - started) / repeats
