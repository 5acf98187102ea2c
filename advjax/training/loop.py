"""From a method to training: compiled steps on devices, one by one in a loop of one's own or over whole epochs.

    trainer = Trainer(TRADES(), {"model": module}, optax.sgd(0.1, 0.9), StepConfig(num_classes=10))
    state = trainer.init((32, 32, 3))
    for images, labels in batches:
        state, metrics = trainer.step(state, images, labels)

It knows no method by name, no config and no files.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import closing
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import parallel
from advjax.data import (
    Course,
    Split,
    Streamed,
    drawn,
    epoch_order,
    mixed_order,
    partners,
    split_cutmix,
    stream,
    to_float,
    to_rows,
)
from advjax.errors import InputError
from advjax.methods.base import Batch, Method
from advjax.training.state import TrainState, create_state
from advjax.training.step import (
    Data,
    Extra,
    Metrics,
    Order,
    Sent,
    StepConfig,
    check_microbatches,
    make_epoch_end,
    make_indexed_step,
    make_step,
    make_streamed_step,
)

# Batches that are on their way to the devices while a step runs.
_AHEAD = 2


class Trainer:
    """A method, its networks and an optimizer as compiled training steps; one per phase of the method and batch shape."""

    def __init__(
        self,
        method: Method,
        modules: Mapping[str, nn.Module],
        optimizer: optax.GradientTransformation,
        config: StepConfig = StepConfig(),
        devices: Sequence[jax.Device] | None = None,
        mapping: str = "pmap",
    ) -> None:
        """Nothing is computed yet.

        Args:
            method: what is trained.
            modules: name -> module of every network of the method.
            optimizer: applied to each trained network on its own.
            config: classes, epochs, seed, augmentation.
            devices: where; all of this host if absent.
            mapping: `"pmap"` or `"shard_map"`.

        Raises:
            InputError: a network of the method is missing; CutMix, and a method that cannot read mixed labels.
        """
        check_augment(method, config.augment)
        for name in (*method.trained, *method.frozen, *method.averaged):
            if name not in modules:
                raise InputError(f"must have the method's network {name!r}, they are {sorted(modules)}", "modules")
        check_microbatches(method, config.microbatches, 0, 1)
        self.method, self.modules, self.optimizer, self.config = method, modules, optimizer, config
        self.devices = list(devices) if devices is not None else parallel.local_devices()
        self.mapping = mapping
        self._programs: dict[Any, Callable[..., Any]] = {}

    def init(
        self,
        image_shape: tuple[int, int, int],
        labels: np.ndarray | Sequence[int] = (),
        given: Mapping[str, Any] | None = None,
    ) -> TrainState:
        """The state before the first step, on all devices.

        Args:
            image_shape: (H, W, C).
            labels: of the training examples [N], in the order of their ids, for methods with a state per example.
            given: name -> variables to start from instead of fresh ones.
        """
        return self.place(self.create(image_shape, labels, given))

    def create(self, image_shape: tuple[int, int, int], labels: Any = (), given: Any = None) -> TrainState:
        """`init`, not placed yet; may be looked at by `jax.eval_shape`."""
        labels = np.asarray(labels, np.int32)
        classes, seed = self.config.num_classes, self.config.seed
        return create_state(self.method, self.modules, self.optimizer, seed, labels, classes, image_shape, given)

    def place(self, tree: Any) -> Any:
        """A state, or variables of frozen networks, on all devices."""
        return parallel.replicate(tree, self.devices)

    def phase(self, epoch: int) -> Hashable:
        """The method's phase in an epoch, from 0."""
        return self.method.phase(epoch, self.config.epochs)

    def step(
        self,
        state: TrainState,
        images: jax.typing.ArrayLike,
        labels: jax.typing.ArrayLike,
        *,
        ids: jax.typing.ArrayLike | None = None,
        weight: jax.typing.ArrayLike | None = None,
        frozen: Mapping[str, Any] | None = None,
        epoch: int = 0,
    ) -> tuple[TrainState, Metrics]:
        """One step on a batch of one's own. The old state is donated: use the new one.

        Args:
            state: from `init` or the step before.
            images: [B, H, W, C], float in [0, 1] or uint8, B a multiple of the devices.
            labels: [B] integers.
            ids: [B] int32, rows of the training set, which key the noise and address a state per example; 0..B-1 if
                absent.
            weight: [B] 0 for padding; 1 if absent.
            frozen: name -> variables of the teachers, on all devices (`place`).
            epoch: from 0; it chooses the phase.

        Returns:
            The new state, and name -> [sum, count] of the metrics over the whole batch, on the device.

        Raises:
            InputError: a batch that cannot be cut evenly over the devices.
        """
        count = len(labels)  # type: ignore[arg-type]
        parallel.check_batch_size(count, self.devices)
        check_microbatches(self.method, self.config.microbatches, count, len(self.devices))
        if self.method.views > 1:
            raise InputError(
                f"must be one that sees one view of an image, {type(self.method).__name__} sees more", "method"
            )
        if self.method.ends(self.phase(epoch)):
            raise InputError(
                f"must be one without an end of the epoch, {type(self.method).__name__} has one: use `steps`", "method"
            )
        if ids is None and jax.tree.leaves(state.method.per_example):
            raise InputError("must be given: the method remembers something of every example", "ids")
        images = np.asarray(images)
        on_host: tuple[Any, ...] = (
            np.asarray(to_float(images), np.float32) if images.dtype == np.uint8 else images.astype(np.float32),
            np.asarray(labels, np.int32),
            np.arange(count, dtype=np.int32) if ids is None else np.asarray(ids, np.int32),
            np.ones(count, np.float32) if weight is None else np.asarray(weight, np.float32),
        )
        shares = parallel.split(parallel.shares(Batch(*on_host), self.devices), self.devices)
        program = self._program(self.phase(epoch), images.shape, indexed=False)
        number = self.place(jnp.asarray(epoch, jnp.int32))

        return program(state, frozen or {}, number, shares)

    def steps(
        self,
        state: TrainState,
        train: Split,
        batch_size: int,
        *,
        first: int = 0,
        frozen: Mapping[str, Any] | None = None,
        extra: Split | None = None,
        ratio: float = 0.0,
        workers: int = 0,
    ) -> Generator[tuple[int, TrainState, Metrics], None, None]:
        """Trains to the last epoch, and yields (steps done, state, metrics) after every step.

        The order of the examples is a function of the seed and the epoch, so training may stop anywhere and go on from
        the state, and is the same whether the set is in memory, of the host and of every device, or streams. A state is
        donated to the step after it.

        Args:
            state: on all devices (`init`, `place`), after `first` steps.
            train: uint8 images and labels; the last batch of an epoch is padded.
            batch_size: over all devices together.
            first: steps that are done.
            frozen: name -> variables of the teachers, on all devices (`place`).
            extra: further images and labels, in memory or mapped from a file (`advjax.data.read_extra`), of which every
                epoch has others; an epoch is as many steps as without them (`advjax.data.mixed_order`). A method with
                a state per example keeps it of `train` alone and meets an extra example as one that it never saw.
            ratio: the share of a batch that is extra.
            workers: of images that stream, processes that decode them; 0: this one does. To be closed, then.

        Raises:
            InputError: a method that goes over the images again after an epoch, and images that stream; an image that
                cannot be decoded.
        """
        share = parallel.share_of(self.devices) if not train.in_memory else (0, 1)
        course = Course(self.config.seed, len(train.label), batch_size, self.config.epochs, first, share)
        shape = train.image.shape[1:]
        if not train.in_memory:
            check_streams(self.method, self.config.epochs, self.config.augment, extra is not None)
        with closing(
            self._resident(train, course, extra, ratio) if train.in_memory else self._sent(train, course, workers)
        ) as rest:
            for step, given in zip(course.steps, rest, strict=True):
                epoch, index = divmod(step, course.per_epoch)
                streamed = 0 if train.in_memory else course.per_epoch
                program = self._program(self.phase(epoch), (batch_size, *shape), indexed=True, per_epoch=streamed)
                state, metrics = program(state, frozen or {}, *given)
                if index + 1 == course.per_epoch and self.method.ends(self.phase(epoch)):
                    seen = (
                        given if train.in_memory else (self._unseen(shape), self.order(course.count, batch_size, epoch))
                    )
                    state = self._end(self.phase(epoch), shape)(state, frozen or {}, *seen)
                yield step + 1, state, metrics

    def _unseen(self, shape: tuple[int, ...]) -> Data:
        """What stands for the set at the end of an epoch that does not go over it again."""
        return self.data(Split(np.zeros((1, *shape), np.uint8), np.zeros(1, np.int32)))

    def _resident(
        self, train: Split, course: Course, extra: Split | None, ratio: float
    ) -> Generator[tuple[Data, Order], None, None]:
        """What a step takes of a set that lies on the devices."""
        data = self.data(train)
        for step in course.steps:
            if step == course.first or step % course.per_epoch == 0:
                epoch = step // course.per_epoch
                if extra is None:
                    order = self.order(course.count, course.batch_size, epoch)
                else:
                    order, data = self.mixed(data, extra, ratio, course.batch_size, epoch)
            yield data, order

    def _sent(self, train: Split, course: Course, workers: int) -> Generator[tuple[Sent], None, None]:
        """What a step takes of a set that streams: its batch, put on the devices some steps ahead."""
        ahead: collections.deque[tuple[Sent]] = collections.deque()
        with closing(stream(train, course, workers)) as batches:
            for batch in batches:
                ahead.append((self.send(batch),))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft()
        yield from ahead

    def send(self, batch: Streamed) -> Sent:
        """A batch that streams, or this process's part of it, cut over the devices."""
        image, *others = batch
        on_host: tuple[Any, ...] = (to_rows(image), *others)
        return parallel.split_own(
            parallel.shares(Sent(*on_host), parallel.Devices(self.devices).own.devices), self.devices
        )

    def data(self, train: Split) -> Data:
        """A training set on all devices."""
        on_host: tuple[Any, ...] = (to_rows(train.image), train.label)
        return self.place(Data(*on_host))

    def order(self, count: int, batch_size: int, epoch: int) -> Order:
        """The batches of an epoch, cut over the devices."""
        return self._laid_out(*epoch_order(self.config.seed, epoch, count, batch_size), epoch)

    def mixed(self, data: Data, extra: Split, ratio: float, batch_size: int, epoch: int) -> tuple[Order, Data]:
        """The batches of an epoch with extra examples, cut over the devices, and these examples beside `data` on all.

        They are read, at most as many as `data` has, when the epoch begins.
        """
        count = len(data.label)
        index, weight = mixed_order(self.config.seed, epoch, count, len(extra.label), batch_size, ratio)
        index, split = drawn(extra, index, count)
        unseen = self.method.init_state(split.label, self.config.num_classes).per_example
        on_host: tuple[Any, ...] = (to_rows(split.image), split.label, unseen)
        return self._laid_out(index, weight, epoch), data._replace(extra=self.place(Extra(*on_host)))

    def _laid_out(self, index: np.ndarray, weight: np.ndarray, epoch: int) -> Order:
        mixes = split_cutmix(self.config.augment)[1] > 0
        partner = partners(self.config.seed, epoch, index) if mixes else None
        on_host: tuple[Any, ...] = (index, weight, partner)
        return parallel.split(parallel.shares(Order(*on_host), self.devices, axis=1), self.devices)

    def program(self, phase: Hashable, image_shape: tuple[int, int, int] | None = None, per_epoch: int = 0) -> Any:
        """The mapped step of a phase, not compiled yet; see `advjax.training.step`.

        Args:
            phase: what the method says of an epoch.
            image_shape: of the images in `data`: the step takes `(state, frozen, data, order)`. None: it takes
                `(state, frozen, epoch, batch)`.
            per_epoch: steps in an epoch of images that stream: the step takes `(state, frozen, sent)`.
        """
        step = make_step(self.method, self.modules, self.optimizer, self.config, phase)
        if image_shape is not None and per_epoch:
            streamed = make_streamed_step(step, self.config, image_shape, per_epoch, self.method.views)
            return parallel.map_step(streamed, self.devices, self.mapping)
        if image_shape is not None:
            indexed = make_indexed_step(step, self.config, image_shape, self.method.views)
            return parallel.map_step(indexed, self.devices, self.mapping)

        def on_batch(state, frozen, epoch, batch):
            return step(state, frozen, batch, epoch)

        return parallel.map_step(on_batch, self.devices, self.mapping)

    def _end(self, phase: Hashable, image_shape: tuple[int, int, int]) -> Any:
        """What follows the last step of an epoch of this phase."""
        key = (phase, "end")
        if key not in self._programs:
            end = make_epoch_end(self.method, self.modules, self.config, phase, image_shape)
            self._programs[key] = parallel.map_step(end, self.devices, self.mapping)
        return self._programs[key]

    def _program(self, phase: Hashable, shape: tuple[int, ...], *, indexed: bool, per_epoch: int = 0) -> Any:
        key = (phase, shape, indexed, per_epoch)
        if key not in self._programs:
            self._programs[key] = self.program(phase, shape[1:] if indexed else None, per_epoch)  # type: ignore[arg-type]
        return self._programs[key]


def check_augment(method: Method, kind: str) -> None:
    """Raises an `InputError` for an augmentation that mixes labels, and a method that cannot read mixed ones."""
    if split_cutmix(kind)[1] and not method.soft_labels:
        name = type(method).__name__
        raise InputError(
            f"has cutmix, which mixes labels, and {name} reads them as classes; allowed: the other steps, or a method "
            "with soft_labels, such as natural, pgd_at and trades",
            "augment",
        )


def check_streams(method: Method, epochs: int, augment: str = "none", extra: bool = False) -> None:
    """Raises `InputError` for what images that stream do not allow: a method that goes over them again after an epoch,
    augmentation that cuts from one image into another, extra images."""
    if extra or split_cutmix(augment)[1]:
        raise InputError(f"must be in memory: they are joined with {'extra' if extra else 'other'} images", "train")
    for epoch in range(epochs):
        if names := method.recomputed(method.phase(epoch, epochs)):
            raise InputError(f"must be in memory: after an epoch the method sees all again, for {names[0]}", "train")


class Meter:
    """Adds up the metrics of steps on the device, without waiting for it."""

    def __init__(self) -> None:
        self._total: Any = None

    def add(self, metrics: Metrics) -> None:
        """Takes the metrics of one step."""
        self._total = metrics if self._total is None else parallel.add(self._total, metrics)

    def totals(self) -> dict[str, list[float]]:
        """Name -> [sum, count] since the last `take`, to go on from (`restore`); waits for the device."""
        return {name: np.asarray(pair).tolist() for name, pair in jax.device_get(self._total or {}).items()}

    def restore(self, totals: Mapping[str, Sequence[float]] | None) -> None:
        """Goes on from what `totals` gave."""
        self._total = {name: np.asarray(pair, np.float32) for name, pair in totals.items()} if totals else None

    def take(self) -> dict[str, float]:
        """Name -> average since the last call; waits for the device."""
        averages, self._total = average(self._total), None
        return averages


def average(metrics: Metrics) -> dict[str, float]:
    """Name -> sum/count of metrics, on the host."""
    host = jax.device_get(metrics)
    return {name: float(total / count) if count else float("nan") for name, (total, count) in host.items()}
