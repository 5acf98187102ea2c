"""What a run would be, before it is: the resolved config, the networks' sizes, and how long it would take."""

from __future__ import annotations

import json
import time

import jax

from advjax import models, parallel
from advjax.data import epoch_order
from advjax.training import teachers
from advjax.training.experiment import Experiment
from advjax.training.log import Display, duration
from advjax.training.loop import initial_state
from advjax.training.step import Data, Order, make_step


def describe(experiment: Experiment, display: Display) -> None:
    """Prints config, data, parameter counts and a time estimate; writes nothing."""
    config, dataset = experiment.config, experiment.dataset
    display.line(json.dumps(config, indent=2))
    display.line(
        f"data: {dataset.name}, {dataset.num_classes} classes, images {dataset.image_shape}, "
        f"{len(dataset.train.label)} to train, {len(experiment.validation.label)} to validate, "
        f"{len(dataset.test.label)} to test"
    )
    for name, module in experiment.modules.items():
        count = models.parameter_count(module, dataset.image_shape)
        display.line(f"network {name}: {type(module).__name__}, {count:,} parameters")
    display.line(f"devices: {len(experiment.devices)} x {experiment.devices[0].device_kind}")
    for teacher in experiment.teachers.values():
        if teacher.training is None:
            display.line(f"teacher {teacher.role}: {teacher.architecture}, {teacher.source}")
        else:
            method, epochs = teacher.training.config["method"]["name"], teacher.training.config["epochs"]
            how = f"{teacher.architecture}, trained first with {method}, {epochs} epochs"
            display.line(f"teacher {teacher.role}: {how}; {_time(teacher.training)}")
    display.line(f"time: {_time(teachers.with_stand_ins(experiment))}, validation and evaluation apart")


def _time(experiment: Experiment) -> str:
    compiling, step = time_step(experiment)
    steps = experiment.steps_per_epoch * experiment.config["epochs"]
    return (
        f"{compiling:.1f} s to the first step, then {step:.3f} s a step; {steps} steps take about "
        f"{duration(compiling + step * steps)}"
    )


def time_step(experiment: Experiment, repeats: int = 3) -> tuple[float, float]:
    """(seconds to compile and run the first step, seconds of a further one), measured on the devices at hand."""
    devices, phase = experiment.devices, experiment.method.phase(0, experiment.config["epochs"])
    per_device = make_step(experiment.method, experiment.modules, experiment.optimizer, experiment.step, phase)
    step = parallel.pmap(per_device, devices, donate_argnums=0)
    order = epoch_order(0, 0, len(experiment.dataset.train.label), experiment.config["batch_size"])
    state = parallel.replicate(initial_state(experiment), devices)
    rest = parallel.replicate((experiment.frozen, Data(*experiment.dataset.train), Order(*order)), devices)
    started = time.perf_counter()
    state, metrics = jax.block_until_ready(step(state, *rest))
    compiling, started = time.perf_counter() - started, time.perf_counter()
    for _ in range(repeats):
        state, metrics = step(state, *rest)
    jax.block_until_ready(metrics)
    return compiling, (time.perf_counter() - started) / repeats
