"""The same small network in four frameworks, as a researcher's own file would have it: nothing here knows advjax."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from advjax import models


class LinenNet(nn.Module):
    """With linen's own BatchNorm, which knows nothing of other devices."""

    num_classes: int
    width: int = 4
    kernels: tuple = (3, 3)

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.width, self.kernels)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


class NNXNet(nnx.Module):
    """Layers in a list, dropout and BatchNorm."""

    def __init__(self, num_classes, width=4, rate=0.1, *, rngs):
        self.layers = nnx.List(
            [nnx.Conv(1, width, (3, 3), rngs=rngs), nnx.BatchNorm(width, momentum=0.9, rngs=rngs)],
        )
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(16 * width, num_classes, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.dropout(nnx.relu(x).reshape(len(x), -1)))


class EquinoxNet(eqx.Module):
    """A function among the leaves, a table of whole numbers, BatchNorm with a state, dropout with a key."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear
    order: jax.Array
    activation: object

    def __init__(self, num_classes, width=4, *, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, width, 3, padding=1, key=first)
        self.norm = eqx.nn.BatchNorm(width, axis_name="batch", momentum=0.9, mode="batch")
        self.dropout = eqx.nn.Dropout(0.1)
        self.head = eqx.nn.Linear(16 * width, num_classes, key=second)
        self.order = jnp.arange(16 * width)[::-1]
        self.activation = jax.nn.relu

    def __call__(self, x, state, key):
        x, state = self.norm(self.conv(x), state)
        x = self.activation(x).ravel()[self.order]
        return self.head(self.dropout(x, key=key)), state


def haiku_function(num_classes, width=4):
    """The function that haiku transforms."""

    def forward(x, is_training):
        x = hk.Conv2D(width, 3)(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, decay_rate=0.9)(x, is_training))
        return hk.Linear(num_classes)(x.reshape(len(x), -1))

    return hk.transform_with_state(forward)


def haiku_net(num_classes, width=4):
    """The factory that `network.name` would give."""
    return models.from_haiku(haiku_function(num_classes, width), num_classes=num_classes, stochastic=False)


def not_a_network(num_classes):
    """Gives no network."""
    return {"classes": num_classes}


def raises(num_classes, depth=3):
    """Cannot be made."""
    raise RuntimeError(f"no depth\n{depth}")


def bare(width):
    """Takes no classes."""
    return width
