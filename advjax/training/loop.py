"""The training loop: epochs, phases, validation, checkpoints. It knows no method by name."""

from __future__ import annotations

import collections
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from advjax import models, parallel
from advjax.data import Split, epoch_order
from advjax.evaluate import attack_dataset, clean, pgd_attack
from advjax.training.checkpoints import Checkpoints
from advjax.training.experiment import Experiment
from advjax.training.log import Display, MetricsLog, summary
from advjax.training.state import TrainState, create_state
from advjax.training.step import Data, Order, make_step


def initial_state(experiment: Experiment) -> TrainState:
    """The state before the first step."""
    return create_state(
        experiment.method,
        experiment.modules,
        experiment.optimizer,
        experiment.config["seed"],
        experiment.dataset.train.label,
        experiment.dataset.num_classes,
        experiment.dataset.image_shape,
        experiment.given,
    )


def train(experiment: Experiment, workdir: pathlib.Path, display: Display) -> None:
    """Trains to the last epoch, from the last checkpoint in `workdir` if there is one.

    Writes `checkpoints/`, `metrics.jsonl` and `tensorboard/`. Killed at any time and called again on the same devices,
    it ends in the same parameters.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint is from before.
    """
    config, epochs, per_epoch = experiment.config, experiment.config["epochs"], experiment.steps_per_epoch
    checkpoints = Checkpoints(workdir / "checkpoints", config["checkpoint"]["every"])
    first = checkpoints.last or 0
    if first >= epochs:
        checkpoints.close()
        return
    shapes = jax.eval_shape(lambda: initial_state(experiment))
    state = checkpoints.restore(first, shapes) if first else initial_state(experiment)
    devices = experiment.devices
    state = parallel.replicate(state, devices)
    frozen = parallel.replicate(experiment.frozen, devices)
    train_data = parallel.replicate(Data(*experiment.dataset.train), devices)
    log = MetricsLog(workdir, first * per_epoch, config["log"]["tensorboard"])
    started = time.perf_counter() - log.seconds
    steps: dict[Any, Callable] = {}
    if first:
        display.line(f"resuming after epoch {first} of {epochs}")
    display.start("training", epochs * per_epoch, first * per_epoch)
    try:
        for epoch in range(first, epochs):
            phase = experiment.method.phase(epoch, epochs)
            if phase not in steps:
                per_device = make_step(
                    experiment.method, experiment.modules, experiment.optimizer, experiment.step, phase
                )
                steps[phase] = parallel.pmap(per_device, devices, donate_argnums=0)
            order = epoch_order(config["seed"], epoch, len(experiment.dataset.train.label), config["batch_size"])
            order = parallel.replicate(Order(*order), devices)
            epoch_started = time.perf_counter()
            meter = _Meter(display, epoch, epochs, per_epoch)
            for index in range(per_epoch):
                state, metrics = steps[phase](state, frozen, train_data, order)
                meter.add(metrics)
                done = epoch * per_epoch + index + 1
                every = config["log"]["every_steps"]
                if every and done % every == 0 and index + 1 < per_epoch:
                    log.write(_record(experiment, done, epoch, started, epoch_started, index + 1, meter.take()))
            record = _record(
                experiment, (epoch + 1) * per_epoch, epoch, started, epoch_started, per_epoch, meter.take()
            )
            if not math.isfinite(record["loss"]):
                raise FloatingPointError(f"training diverged: the loss in epoch {epoch + 1} is {record['loss']}")
            last = epoch + 1 == epochs
            if last or (epoch + 1) % config["validation"]["every"] == 0:
                record.update(validate(experiment, parallel.unreplicate((state.params, state.stats))))
            record["seconds"] = round(time.perf_counter() - started, 3)
            # The record before the checkpoint: a crash between the two leaves a line too many, which resuming cuts.
            log.write(record)
            score = record.get(f"validation_{experiment.method.best_by}_accuracy")
            checkpoints.save(epoch + 1, parallel.unreplicate(state), score)
            display.line(f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}  {summary(record)}")
    finally:
        display.stop()
        log.close()
        checkpoints.close()


def _record(experiment, step, epoch, started, epoch_started, steps_in_epoch, metrics) -> dict[str, Any]:
    now = time.perf_counter()
    examples = min(steps_in_epoch * experiment.config["batch_size"], len(experiment.dataset.train.label))
    return {
        "step": step,
        "epoch": epoch + 1,
        "seconds": round(now - started, 3),
        **metrics,
        "learning_rate": float(experiment.schedule(step - 1)),
        "images_per_second": round(examples / (now - epoch_started), 2),
    }


class _Meter:
    """Adds up metrics on the device; looks at them two steps later, so that the device never waits for the host."""

    def __init__(self, display: Display, epoch: int, epochs: int, per_epoch: int) -> None:
        self._display, self._label = display, f"epoch {epoch + 1}/{epochs}"
        self._done = epoch * per_epoch
        self._total: Any = None
        self._pending: collections.deque = collections.deque()

    def add(self, metrics: Any) -> None:
        """Takes the metrics of one step."""
        self._pending.append(metrics)
        self._total = metrics if self._total is None else parallel.add(self._total, metrics)
        if len(self._pending) > 2:
            self._done += 1
            self._display.update(self._done, note=f"{self._label}  {_note(_averages(self._pending.popleft()))}")

    def take(self) -> dict[str, float]:
        """The averages since the last call."""
        averages, self._total = _averages(self._total), None
        return averages


def _averages(metrics: Any) -> dict[str, float]:
    host = jax.device_get(parallel.unreplicate(metrics))
    return {name: float(total / count) if count else float("nan") for name, (total, count) in host.items()}


def _note(averages: dict[str, float]) -> str:
    shown = {"loss": "loss {:.3f}", "clean_accuracy": "clean {:.1%}", "robust_accuracy": "robust {:.1%}"}
    return "  ".join(text.format(averages[name]) for name, text in shown.items() if name in averages)


def validate(experiment: Experiment, networks: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, float]:
    """Clean and robust accuracy on the validation split and on as many training images, both unaugmented.

    Of the first network that the method evaluates; of further ones under `NAME.`. The attack is PGD with
    `validation.steps` steps of eps/4 from a uniform start.
    """
    params, stats = networks
    config, norm, eps = experiment.config, experiment.norm, experiment.eps
    attack = pgd_attack("validation", norm=norm, eps=eps, steps=config["validation"]["steps"], step_size=eps / 4)
    size = len(experiment.validation.label) or min(1000, len(experiment.dataset.train.label))
    splits = {"train": Split(*(array[:size] for array in experiment.dataset.train))}
    if len(experiment.validation.label):
        splits["validation"] = experiment.validation
    record = {}
    for number, network in enumerate(experiment.method.evaluated):
        variables = {"params": params[network], "batch_stats": stats[network]}
        logits_fn = models.logits_fn(experiment.modules[network], variables)
        prefix = f"{network}." if number else ""
        for part, split in splits.items():
            for kind, run in (("clean", clean()), ("robust", attack)):
                outcome = attack_dataset(
                    logits_fn,
                    run,
                    split,
                    seed=config["seed"],
                    batch_size=config["evaluation"]["batch_size"],
                    devices=experiment.devices,
                )
                record[f"{prefix}{part}_{kind}_accuracy"] = float(np.float64(outcome.accuracy))
    return record
