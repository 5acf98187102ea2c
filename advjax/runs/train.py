"""The training of an experiment in its folder: metrics, validation, checkpoints, and the terminal kept informed."""

from __future__ import annotations

import collections
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from advjax import models
from advjax.data import Split
from advjax.evaluate import clean, pgd_attack, run_attack
from advjax.runs.display import Display, summary
from advjax.runs.experiment import Experiment
from advjax.runs.metrics import MetricsLog
from advjax.training import Checkpoints, Meter, StepConfig, Trainer, average
from advjax.training.state import TrainState


def make_trainer(experiment: Experiment) -> Trainer:
    """The experiment's training steps."""
    config = experiment.config
    step = StepConfig(
        experiment.dataset.num_classes, config.epochs, config.seed, config.data.augment, config.batch_norm
    )
    return Trainer(
        experiment.method,
        experiment.modules,
        experiment.optimizer,
        step,
        experiment.devices,
        config.parallel.mapping,
    )


def first_state(trainer: Trainer, experiment: Experiment) -> TrainState:
    """The state before the first step, not placed yet."""
    dataset = experiment.dataset
    return trainer.create(dataset.image_shape, dataset.train.label, experiment.given)


def train(experiment: Experiment, workdir: pathlib.Path, display: Display) -> None:
    """Trains to the last epoch, from the last checkpoint in `workdir` if there is one.

    Writes `checkpoints/`, `metrics.jsonl` and `tensorboard/`. Killed at any time and called again on the same devices,
    it ends in the same parameters.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint is from before.
    """
    config, per_epoch = experiment.config, experiment.steps_per_epoch
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.every)
    done = checkpoints.last or 0
    if done >= config.epochs:
        return checkpoints.close()
    trainer = make_trainer(experiment)
    if done:
        state = checkpoints.restore(done, jax.eval_shape(lambda: first_state(trainer, experiment)))
        display.line(f"resuming after epoch {done} of {config.epochs}")
    else:
        state = first_state(trainer, experiment)
    log = MetricsLog(workdir, done * per_epoch, experiment.writers)
    course = _Course(experiment, display, log)
    display.start("training", config.epochs * per_epoch, done * per_epoch)
    try:
        steps = trainer.steps(
            trainer.place(state),
            experiment.dataset.train,
            config.batch_size,
            first=done * per_epoch,
            frozen=trainer.place(experiment.frozen),
        )
        for step, state, metrics in steps:
            course.take(step, metrics)
            if step % per_epoch == 0:
                epoch = step // per_epoch
                record = course.end_of_epoch(epoch, state)
                # The record before the checkpoint: a crash between the two leaves a line too many, which resuming cuts.
                log.write(record)
                checkpoints.save(epoch, state, score(record, experiment.method.best_by))
                display.line(f"epoch {epoch:>{len(str(config.epochs))}}/{config.epochs}  {summary(record)}")
                course.begin_epoch()
    finally:
        display.stop()
        log.close()
        checkpoints.close()
    return None


def score(record: Mapping[str, float], best_by: str) -> float | None:
    """What the best checkpoint is chosen by: validation accuracy, clean, robust or the mean of both; None without."""
    kinds = ("clean", "robust") if best_by == "mean" else (best_by,)
    found = [record.get(f"validation_{kind}_accuracy") for kind in kinds]
    return None if None in found else sum(found) / len(found)  # type: ignore[arg-type]


class _Course:
    """What is said and written while steps go by. It looks at a step's metrics two steps later, so that the device
    never waits for the host."""

    def __init__(self, experiment: Experiment, display: Display, log: MetricsLog) -> None:
        self.experiment, self.display, self.log = experiment, display, log
        self.started = time.perf_counter() - log.seconds
        self.meter, self.pending = Meter(), collections.deque()  # type: ignore[var-annotated]
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """The clock of the epoch's speed starts."""
        self.epoch_started, self.steps_in_epoch = time.perf_counter(), 0

    def take(self, step: int, metrics: Any) -> None:
        """One step is on its way to the device."""
        config, per_epoch = self.experiment.config, self.experiment.steps_per_epoch
        self.meter.add(metrics)
        self.pending.append((step, metrics))
        self.steps_in_epoch += 1
        if len(self.pending) > 2:
            shown, values = self.pending.popleft()
            epoch = -(-shown // per_epoch)
            self.display.update(shown, note=f"epoch {epoch}/{config.epochs}  {_note(average(values))}")
        every = config.log.every_steps
        if every and step % every == 0 and step % per_epoch:
            self.log.write(self._record(step))

    def end_of_epoch(self, epoch: int, state: TrainState) -> dict[str, Any]:
        """The record of an epoch, with the validation where it is due."""
        config = self.experiment.config
        record = self._record(epoch * self.experiment.steps_per_epoch)
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(f"training diverged: the loss in epoch {epoch} is {record['loss']}")
        if epoch == config.epochs or epoch % config.validation.every == 0:
            record |= validate(self.experiment, state.params, state.stats)
        record["seconds"] = round(time.perf_counter() - self.started, 3)
        return record

    def _record(self, step: int) -> dict[str, Any]:
        experiment = self.experiment
        metrics = self.meter.take()  # waits for the device, so that the time is that of the steps
        now = time.perf_counter()
        examples = min(self.steps_in_epoch * experiment.config.batch_size, len(experiment.dataset.train.label))
        return {
            "step": step,
            "epoch": -(-step // experiment.steps_per_epoch),
            "seconds": round(now - self.started, 3),
            **metrics,
            "learning_rate": float(experiment.schedule(step - 1)),
            "images_per_second": round(examples / (now - self.epoch_started), 2),
        }


def _note(averages: Mapping[str, float]) -> str:
    shown = {"loss": "loss {:.3f}", "clean_accuracy": "clean {:.1%}", "robust_accuracy": "robust {:.1%}"}
    return "  ".join(text.format(averages[name]) for name, text in shown.items() if name in averages)


def validate(experiment: Experiment, params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, float]:
    """Clean and robust accuracy on the validation split and on as many training images, both unaugmented.

    Of the first network that the method evaluates; of further ones under `NAME.`. The attack is PGD with
    `validation.steps` steps of eps/4 from a uniform start.
    """
    config, eps = experiment.config, experiment.eps
    robust = pgd_attack("validation", norm=experiment.norm, eps=eps, steps=config.validation.steps, step_size=eps / 4)
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
            for kind, attack in (("clean", clean()), ("robust", robust)):
                outcome = run_attack(
                    logits_fn,
                    attack,
                    split,
                    seed=config.seed,
                    batch_size=config.evaluation.batch_size,
                    devices=experiment.devices,
                )
                record[f"{prefix}{part}_{kind}_accuracy"] = outcome.accuracy
    return record
