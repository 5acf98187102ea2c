"""A toy world in which one training step takes milliseconds: 4x4 images, a network of two layers with BatchNorm."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import parallel
from advjax.data import epoch_order, to_rows
from advjax.models.layers import BatchNorm, Conv, Linear
from advjax.training.state import create_state
from advjax.training.step import Data, Order, StepConfig, make_epoch_end, make_indexed_step, make_step

CLASSES, SHAPE = 3, (4, 4, 1)


class ToyNet(nn.Module):
    """Convolution, BatchNorm, ReLU, linear."""

    num_classes: int = CLASSES
    features: int = 4
    stochastic = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(BatchNorm()(Conv(self.features)(x), train))
        return Linear(self.num_classes)(x.reshape(len(x), -1))


def toy_data(n: int = 22, seed: int = 0) -> Data:
    """n random uint8 images with random labels."""
    rng = np.random.default_rng(seed)
    return Data(rng.integers(0, 256, (n, *SHAPE)).astype(np.uint8), rng.integers(0, CLASSES, n).astype(np.int32))


class Run:
    """A method on toy data, stepped by hand."""

    def __init__(
        self, method, *, devices=1, batch_size=8, data=None, optimizer=None, phase=None, modules=None, frozen=None,
        seed=0, batch_norm="global", given=None, epochs=1, mapping="pmap", microbatches=1,
    ):  # fmt: skip
        self.method, self.devices, self.seed, self.batch_size = method, jax.devices()[:devices], seed, batch_size
        self.data = data or toy_data()
        self.modules = modules or {n: ToyNet() for n in (*method.trained, *method.frozen, *method.averaged)}
        self.optimizer = optimizer or optax.sgd(0.1, 0.9)
        self.frozen = frozen or {}
        self.config = StepConfig(CLASSES, epochs, seed, "none", batch_norm, microbatches=microbatches)
        state = create_state(
            method, self.modules, self.optimizer, seed, np.asarray(self.data.label), CLASSES, SHAPE, given
        )
        self.initial = jax.device_get(state)
        self._state = parallel.replicate(state, self.devices)
        self._steps = {}
        self._phase = phase
        self._mapping = mapping
        self.metrics = {}

    @property
    def rows(self):
        """The training set as a step takes it."""
        return Data(to_rows(np.asarray(self.data.image)), self.data.label)

    @property
    def state(self):
        """The state on the host."""
        return jax.device_get(self._state)

    def order(self, epoch=0):
        """The batches of an epoch, laid out over the devices."""
        order = Order(*epoch_order(self.seed, epoch, len(self.data.label), self.batch_size))
        return parallel.split(parallel.shares(order, self.devices, axis=1), self.devices)

    def step(self, count: int = 1, phase=None):
        """Takes steps; returns the run."""
        phase = self._phase if phase is None else phase
        if phase not in self._steps:
            step = make_step(self.method, self.modules, self.optimizer, self.config, phase)
            indexed = make_indexed_step(step, self.config, SHAPE, self.method.views)
            self._steps[phase] = parallel.map_step(indexed, self.devices, self._mapping)
        frozen, data = parallel.replicate((self.frozen, self.rows), self.devices)
        per_epoch = -(-len(self.data.label) // self.batch_size)
        for _ in range(count):
            epoch = int(self.state.step) // per_epoch
            self._state, metrics = self._steps[phase](self._state, frozen, data, self.order(epoch))
            self.metrics = {n: float(s / c) for n, (s, c) in jax.device_get(metrics).items()}
        return self

    def end_epoch(self, phase=None):
        """What follows the last step of an epoch; returns the run."""
        phase = self._phase if phase is None else phase
        frozen, data = parallel.replicate((self.frozen, self.rows), self.devices)
        epoch = int(self.state.step) // -(-len(self.data.label) // self.batch_size) - 1
        end = parallel.map_step(make_epoch_end(self.method, self.modules, self.config, phase, SHAPE), self.devices)
        self._state = end(self._state, frozen, data, self.order(epoch))
        return self


def distance(one, other) -> float:
    """The largest absolute difference between two pytrees of arrays."""
    differences = jax.tree.map(
        lambda a, b: float(jnp.max(jnp.abs(jnp.asarray(a) - jnp.asarray(b)), initial=0)), one, other
    )
    return max(jax.tree.leaves(differences), default=0.0)
