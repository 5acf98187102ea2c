"""What a run would be, how long it would take and how much memory, without starting it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from advjax import compiling, models, parallel
from advjax.data import Course, stream, to_rows
from advjax.runs import memory
from advjax.runs.display import Display, duration
from advjax.runs.experiment import Experiment
from advjax.runs.train import first_state, make_trainer
from advjax.training import Trainer
from advjax.training.step import Data


def describe(experiment: Experiment, display: Display) -> None:
    """Prints config, data, parameter counts, the memory of a step and a time estimate; writes nothing."""
    dataset = experiment.dataset
    display.line(json.dumps(experiment.plain, indent=2))
    display.line(
        f"data: {dataset.name}, {dataset.num_classes} classes, images {dataset.image_shape}, "
        f"{len(dataset.train.label)} to train, {len(experiment.validation.label)} to validate, "
        f"{len(dataset.test.label)} to test, {'in memory' if dataset.train.in_memory else 'streamed'}"
    )
    for warning in dataset.warnings:
        display.warning(warning)
    for name, module in experiment.modules.items():
        count = models.parameter_count(module, dataset.image_shape)
        display.line(f"network {name}: {type(module).__name__}, {count:,} parameters")
    display.line(f"devices: {len(experiment.devices)} x {experiment.devices[0].device_kind}")
    for teacher in experiment.teachers.values():
        how = teacher.source
        if teacher.training is not None:
            config = teacher.training.config
            room, takes = _cost(teacher.training)
            how = f"trained first with {config.method['name']}, {config.epochs} epochs; {takes}; {room}"
        display.line(f"teacher {teacher.role}: {teacher.architecture}, {how}")
    room, takes = _cost(with_stand_ins(experiment))
    display.line(room)
    display.line(f"time: {takes}, validation and evaluation apart")


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


def _cost(experiment: Experiment) -> tuple[str, str]:
    """Lines about memory and time of an experiment's training; a step that does not fit is not tried."""
    step, has = compile_step(experiment), memory.of_each(experiment.devices)
    room = f"memory: a step needs {_size(step.bytes)} on each device, of {_size(has)}"
    if step.bytes > has:
        return f"{room}: IT DOES NOT FIT, {memory.for_training(experiment.config)}", "not measured"
    seconds, steps = time_step(experiment, step), experiment.steps_per_epoch * experiment.config.epochs
    return room, (
        f"{step.seconds:.1f} s to compile, then {seconds:.3f} s a step; {steps} steps take about "
        f"{duration(step.seconds + seconds * steps)}"
    )


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number > 2**27 else f"{number / 2**20:.2f} MiB"


class Step(NamedTuple):
    """A compiled training step.

    Attributes:
        program: `(state, frozen, *given) -> (state, metrics)`.
        bytes: what it takes on a device while it runs, the training set and the state included.
        seconds: what compiling it took.
    """

    program: Callable[..., Any]
    bytes: int
    seconds: float


def compile_step(experiment: Experiment) -> Step:
    """Compiles the first step; a set in memory is not placed on a device for it."""
    trainer, train = make_trainer(experiment), experiment.dataset.train
    per_epoch = 0 if train.in_memory else experiment.steps_per_epoch
    step = trainer.program(trainer.phase(0), experiment.dataset.image_shape, per_epoch)
    on_host: tuple[Any, ...] = (to_rows(train.image), train.label) if train.in_memory else ()
    given = _given(trainer, experiment, Data(*on_host) if on_host else None)
    started = time.perf_counter()
    state = jax.eval_shape(lambda: first_state(trainer, experiment))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (experiment.frozen, *given))
    with compiling.for_devices(experiment.devices):
        program = step.lower(state, *shapes).compile(compiler_options=compiling.options())
    sizes = program.memory_analysis()
    parts = ("argument", "output", "temp", "generated_code")
    taken = sum(getattr(sizes, f"{part}_size_in_bytes") for part in parts) - sizes.alias_size_in_bytes if sizes else 0
    return Step(program, taken, time.perf_counter() - started)


def _given(trainer: Trainer, experiment: Experiment, data: Data | None) -> tuple[Any, ...]:
    """What a step takes beside state and teachers: the set and its order, or the first batch of one that streams."""
    train, config = experiment.dataset.train, experiment.config
    if data is not None:
        return data, trainer.order(len(train.label), config.batch_size, 0)
    share = parallel.share_of(experiment.devices)
    course = Course(config.seed, len(train.label), config.batch_size, config.epochs, host=share)
    return (trainer.send(next(stream(train, course))),)


def time_step(experiment: Experiment, step: Step, repeats: int = 3) -> float:
    """Seconds of a step, measured on the devices at hand after a first one."""
    trainer, train = make_trainer(experiment), experiment.dataset.train
    state, frozen = trainer.place((first_state(trainer, experiment), experiment.frozen))
    rest = (frozen, *_given(trainer, experiment, trainer.data(train) if train.in_memory else None))
    state, metrics = jax.block_until_ready(step.program(state, *rest))
    started = time.perf_counter()
    for _ in range(repeats):
        state, metrics = step.program(state, *rest)
    jax.block_until_ready(metrics)
    return (time.perf_counter() - started) / repeats
