"""The training of an experiment in its folder: metrics, validation, checkpoints, and the terminal kept informed."""

from __future__ import annotations

import collections
import math
import os
import pathlib
import signal
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import hosts, models, parallel
from advjax.errors import InputError, Stopped
from advjax.evaluate import attack_dataset, clean, pgd_attack
from advjax.runs import memory
from advjax.runs.build import create_optimizer
from advjax.runs.display import Display, summary
from advjax.runs.experiment import Experiment
from advjax.runs.interrupts import Interrupts
from advjax.runs.metrics import MetricsLog, NoLog, read_metrics
from advjax.training import Checkpoints, Meter, StepConfig, Trainer, average
from advjax.training.checkpoints import Damaged, sha256
from advjax.training.state import TrainState

MOST_ROLLBACKS = 5
UNVALIDATED = "unvalidated"  # of a checkpoint after the last step of an epoch whose end is still to come


def make_trainer(experiment: Experiment, rollbacks: int = 0) -> Trainer:
    """The experiment's training steps; with a learning rate that was halved so many times."""
    config, optimizer = experiment.config, experiment.optimizer
    step = StepConfig(
        experiment.dataset.num_classes,
        config.epochs,
        config.seed,
        config.data.augment,
        config.batch_norm,
        config.products,
        config.microbatches,
    )
    if rollbacks:
        factor = 0.5**rollbacks
        optimizer, _ = create_optimizer(config, experiment.steps_per_epoch, experiment.method, factor)
    return Trainer(experiment.method, experiment.modules, optimizer, step, experiment.devices, config.parallel.mapping)


def first_state(trainer: Trainer, experiment: Experiment) -> TrainState:
    """The state before the first step, not placed yet."""
    dataset = experiment.dataset
    return trainer.create(dataset.image_shape, dataset.train.label, experiment.initial)


def state_bytes(experiment: Experiment) -> int:
    """Bytes of a checkpoint; nothing is computed."""
    trainer = make_trainer(experiment)
    shapes = jax.eval_shape(lambda: first_state(trainer, experiment))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


class Diverged(Exception):
    """A loss, or a network, is no longer finite."""


class _Point(NamedTuple):
    """Where training goes on: steps done, the state then (not placed), and what was noted with the checkpoint."""

    step: int
    state: TrainState
    note: Mapping[str, Any]


def train(
    experiment: Experiment, workdir: pathlib.Path, display: Display, interrupts: Interrupts | None = None
) -> None:
    """Trains to the last epoch, from the last checkpoint in `workdir` if there is one.

    Writes `checkpoints/`, `metrics.jsonl` and what the writers write. Killed at any time and called again on the same
    devices, it ends in the same parameters.

    Args:
        experiment: what is trained.
        workdir: its folder.
        display: the terminal.
        interrupts: says when to stop; a step is finished and saved first.

    Raises:
        InputError: the loss is not finite, and going back is not asked for or did not help; no checkpoint can be read;
            the device's memory ran out.
        Stopped: by a signal.
    """
    config, rollbacks = experiment.config, 0
    every = config.checkpoint.every * experiment.steps_per_epoch
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep, every)
    if strays := checkpoints.strays:
        display.line(f"ignored in {workdir / 'checkpoints'}, since they are no checkpoints: {', '.join(strays)[:200]}")
    try:
        while True:
            point = _resume(experiment, checkpoints, workdir, display)
            if point.step >= config.epochs * experiment.steps_per_epoch and not point.note.get(UNVALIDATED):
                return
            rollbacks = max(rollbacks, point.note.get("rollbacks", 0))
            try:
                with memory.enough(memory.for_training(config)):
                    return _Training(experiment, checkpoints, workdir, display, interrupts, rollbacks).run(point)
            except Diverged as error:
                checkpoints.wait()
                place = f"step {checkpoints.last}" if checkpoints.last else "the beginning"
                if config.on_divergence == "stop" or rollbacks == MOST_ROLLBACKS:
                    raise InputError(
                        f"training diverged, {error}; the last good checkpoint is {place}; try a lower "
                        "optimizer.learning_rate, optimizer.clip_norm, precision float32, or on_divergence=rollback"
                    ) from None
                rollbacks += 1
                display.line(f"training diverged, {error}: back to {place}, learning rate x {0.5**rollbacks:g}")
    finally:
        checkpoints.close()


def _resume(experiment: Experiment, checkpoints: Checkpoints, workdir: pathlib.Path, display: Display) -> _Point:
    """The newest checkpoint that holds what was saved, or the beginning."""
    trainer = make_trainer(experiment)
    shapes, failure = jax.eval_shape(lambda: first_state(trainer, experiment)), None
    for step in hosts.by_first(lambda: checkpoints.all[::-1]):
        try:
            point = _Point(step, checkpoints.restore(step, shapes), checkpoints.note_of(step))
        except Damaged as error:
            failure = failure or error
            continue
        if failure:
            display.warning(f"{failure}; the one before it, {step}, is used")
            for damaged in (number for number in checkpoints.all if number > step):
                checkpoints.put_aside(damaged, workdir / f"damaged-checkpoint-{damaged}")
        if step < experiment.config.epochs * experiment.steps_per_epoch:
            epoch, rest = divmod(step, experiment.steps_per_epoch)
            where = f"epoch {epoch}" if not rest else f"step {rest} of epoch {epoch + 1}"
            display.line(f"resuming after {where} of {experiment.config.epochs}")
        return point
    if failure:
        raise InputError(f"no checkpoint can be used: {failure}; move {workdir / 'checkpoints'} away to start again")
    state = first_state(trainer, experiment)
    if hosts.count() > 1:
        hosts.check_same({"the first state": sha256(state)})
    return _Point(0, state, {})


def score(record: Mapping[str, float], best_by: str) -> float | None:
    """What the best checkpoint is chosen by: validation accuracy, clean, robust or the mean of both; None without."""
    kinds = ("clean", "robust") if best_by == "mean" else (best_by,)
    found = [record.get(f"validation_{kind}_accuracy") for kind in kinds]
    return None if None in found else sum(found) / len(found)  # type: ignore[arg-type]


class _Training:
    """Steps from a point to the end, with what is said and written while they go by."""

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: Checkpoints,
        workdir: pathlib.Path,
        display: Display,
        interrupts: Interrupts | None,
        rollbacks: int,
    ) -> None:
        self.experiment, self.checkpoints, self.display = experiment, checkpoints, display
        self.workdir, self.interrupts, self.rollbacks = workdir, interrupts or Interrupts(), rollbacks
        self.per_epoch = experiment.steps_per_epoch
        self.meter, self.interval = Meter(), Meter()  # of the epoch, and since the last record within it
        self.pending: collections.deque = collections.deque()
        self.votes: collections.deque = collections.deque()
        self.saves = 0

    def run(self, point: _Point) -> None:
        """Trains from `point` to the last epoch."""
        experiment, config = self.experiment, self.experiment.config
        trainer = make_trainer(experiment, self.rollbacks)
        self.meter.restore(point.note.get("totals"))
        first = hosts.is_first()
        self.log = MetricsLog(self.workdir, point.step, experiment.writers) if first else NoLog()
        self.best = max(
            (
                (value, record["epoch"])
                for record in read_metrics(self.workdir / "metrics.jsonl")
                if (value := score(record, experiment.method.best_by)) is not None
            ),
            default=(-math.inf, 0),
        )
        self.started = time.perf_counter() - self.log.seconds
        self.saved_at = time.perf_counter()
        self._begin_epoch()
        self.display.event("compiling", "compiling the training step")
        self.display.start("training", config.epochs * self.per_epoch, point.step)
        placed = trainer.place(point.state)
        steps = trainer.steps(
            placed,
            experiment.dataset.train,
            config.batch_size,
            first=point.step,
            frozen=trainer.place(experiment.frozen),
            extra=experiment.parts.extra,
            ratio=config.data.extra.ratio,
            workers=config.data.workers or max(1, (os.cpu_count() or 2) - 1),
        )
        try:
            if point.note.get(UNVALIDATED):
                self._end_epoch(point.step, placed)
            for step, state, metrics in steps:
                self._take(step, state, metrics)
                due, number = self._asked()
                if step % self.per_epoch == 0:
                    self._end_epoch(step, state)
                elif number or due:
                    self._check_all(step, state)
                    self._save(step, state, {"totals": self.meter.totals()})
                if number:
                    self.checkpoints.wait()
                    by = f"{signal.Signals(number).name} after step {step}"
                    raise Stopped(number, f"stopped by {by}, which is saved; the same command goes on")
        finally:
            steps.close()
            self.display.stop()
            self.log.close()

    def _best(self, record: Mapping[str, float], epoch: int) -> str:
        """In words, which epoch is the best so far."""
        value = score(record, self.experiment.method.best_by)
        if value is not None and value >= self.best[0]:
            self.best = value, epoch
            return "best so far"
        return f"best: epoch {self.best[1]}" if self.best[1] else ""

    def _begin_epoch(self) -> None:
        self.epoch_started, self.steps_in_epoch = time.perf_counter(), 0

    def _asked(self) -> tuple[bool, int]:
        """Whether a checkpoint is due, and the signal that came to this process or another one, 0 if none.

        Of several processes, each learns at the same step what any of them knew two steps before, as of the metrics: none
        waits for the others.
        """
        own = self._due(), self.interrupts.signal or 0
        if hosts.count() == 1:
            return own
        self.votes.append((self.saves, parallel.most(own, self.experiment.devices)))
        if len(self.votes) <= 2:
            return False, 0
        saves, vote = self.votes.popleft()
        due, number = jax.device_get(vote)
        return bool(due) and saves == self.saves, int(number)

    def _due(self) -> bool:
        minutes = self.experiment.config.checkpoint.every_minutes
        return bool(minutes) and time.perf_counter() - self.saved_at > 60 * minutes

    def _take(self, step: int, state: TrainState, metrics: Any) -> None:
        """One step is on its way to the device; what two steps before gave is looked at, so that the device never
        waits for the host."""
        config = self.experiment.config
        self.meter.add(metrics)
        self.pending.append((step, metrics))
        self.steps_in_epoch += 1
        if len(self.pending) > 2:
            shown, averages = self._looked_at(self.pending.popleft())
            epoch = -(-shown // self.per_epoch)
            self._check(shown, averages, state)
            self.display.update(shown, note=f"epoch {epoch}/{config.epochs}  {_note(averages)}")
        every = config.log.every_steps
        if every:
            self.interval.add(metrics)
        if every and step % every == 0:
            if step % self.per_epoch:
                self.log.write(self._record(step, self.interval))
            self.interval = Meter()

    def _check(self, step: int, averages: Mapping[str, float], state: TrainState) -> None:
        """Raises `Diverged` unless the loss, and with `state` every network, is finite."""
        if math.isfinite(averages["loss"]):
            return
        quantities = ", ".join(f"{name} is {value}" for name, value in averages.items() if not math.isfinite(value))
        networks = [name for name, params in state.params.items() if not is_finite(params)]
        raise Diverged(
            f"epoch {-(-step // self.per_epoch)}, step {step}: {quantities}"
            + (f"; parameters of {', '.join(networks)} are not finite" if networks else "")
        )

    def _check_all(self, step: int, state: TrainState) -> None:
        """Raises `Diverged` unless the losses that were not looked at yet, and the networks, are finite."""
        while self.pending:
            self._check(*self._looked_at(self.pending.popleft()), state)
        if not is_finite((state.params, state.stats)):
            self._check(step, {"loss": float("nan")}, state)

    @staticmethod
    def _looked_at(entry: tuple[int, Any]) -> tuple[int, dict[str, float]]:
        return entry[0], average(entry[1])

    def _end_epoch(self, step: int, state: TrainState) -> None:
        """Validation where it is due, the record, the checkpoint."""
        experiment, config, epoch = self.experiment, self.experiment.config, step // self.per_epoch
        totals = self.meter.totals()
        record = self._record(step, self.meter)
        self._check_all(step, state)
        if epoch == config.epochs or epoch % config.validation.every == 0:
            try:
                record |= validate(experiment, state.params, state.stats, self.interrupts)
            except Stopped:
                self._save(step, state, {"totals": totals, UNVALIDATED: True})
                self.checkpoints.wait()
                raise
        record["seconds"] = round(time.perf_counter() - self.started, 3)
        # The record before the checkpoint: a crash between the two leaves a line too many, which resuming cuts.
        self.log.write(record)
        self._save(step, state, {}, score(record, experiment.method.best_by))
        best = self._best(record, epoch)
        self.display.event(
            "epoch",
            f"epoch {epoch:>{len(str(config.epochs))}}/{config.epochs}  {summary(record)}  {best}".rstrip(),
            **record,
        )
        self._begin_epoch()

    def _save(self, step: int, state: TrainState, note: dict[str, Any], score: float | None = None) -> None:
        note |= {"rollbacks": self.rollbacks} if self.rollbacks else {}
        self.checkpoints.save(step, state, score, note)
        self.saved_at = time.perf_counter()
        self.saves += 1  # votes on their way say that it is due

    def _record(self, step: int, meter: Meter) -> dict[str, Any]:
        experiment = self.experiment
        metrics = meter.take()  # waits for the device, so that the time is that of the steps
        now = time.perf_counter()
        examples = min(self.steps_in_epoch * experiment.config.batch_size, len(experiment.dataset.train.label))
        return {
            "step": step,
            "epoch": -(-step // self.per_epoch),
            "seconds": round(now - self.started, 3),
            **metrics,
            "learning_rate": float(experiment.schedule(step - 1)) * 0.5**self.rollbacks,
            **({"rollbacks": self.rollbacks} if self.rollbacks else {}),
            "images_per_second": round(examples / (now - self.epoch_started), 2),
        }


@jax.jit
def is_finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _note(averages: Mapping[str, float]) -> str:
    shown = {"loss": "loss {:.3f}", "clean_accuracy": "clean {:.1%}", "robust_accuracy": "robust {:.1%}"}
    return "  ".join(text.format(averages[name]) for name, text in shown.items() if name in averages)


def validate(
    experiment: Experiment, params: Mapping[str, Any], stats: Mapping[str, Any], interrupts: Interrupts
) -> dict[str, float]:
    """Clean and robust accuracy on the validation split and on as many training images, both unaugmented.

    Of the first network that the method evaluates; of further ones under `NAME.`. The attack is PGD with
    `validation.steps` steps of eps/4 from a uniform start.

    Raises:
        Stopped: a signal came; nothing is known yet.
    """
    config, eps = experiment.config, experiment.eps
    robust = pgd_attack("validation", norm=experiment.norm, eps=eps, steps=config.validation.steps, step_size=eps / 4)
    size = len(experiment.validation.label) or min(1000, len(experiment.dataset.train.label))
    splits = {"train": experiment.dataset.train.first(size)}
    if len(experiment.validation.label):
        splits["validation"] = experiment.validation

    def progress(done: int, total: int, standing: int) -> None:
        hosts.check()
        if hosts.count() == 1:  # several processes stop together, after the step that follows
            interrupts.obey("the validation")

    record = {}
    for number, network in enumerate(experiment.method.evaluated):
        variables = parallel.here({"params": params[network], "batch_stats": stats[network]})
        logits_fn = models.logits_fn(experiment.modules[network], variables)
        prefix = f"{network}." if number else ""
        for part, split in splits.items():
            for kind, attack in (("clean", clean()), ("robust", robust)):
                with memory.enough(memory.for_evaluation(config.evaluation.batch_size)):
                    outcome = attack_dataset(
                        logits_fn,
                        attack,
                        split,
                        seed=config.seed,
                        batch_size=config.evaluation.batch_size,
                        devices=experiment.devices,
                        progress=progress,
                    )
                record[f"{prefix}{part}_{kind}_accuracy"] = outcome.accuracy
    return record
