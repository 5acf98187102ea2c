"""Networks small enough that an attack on them takes a second."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SHAPE = (6, 5, 2)


def linear(weights, bias=0.0):
    """Logits W x + b on flattened images; weights [d, K]."""
    weights, bias = jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32)
    return lambda x: x.reshape(x.shape[0], -1) @ weights + bias


def network(classes: int = 10, seed: int = 0, hidden: int = 24):
    """A random two-layer ReLU network on images of `SHAPE`."""
    rng = np.random.default_rng(seed)
    d = int(np.prod(SHAPE))
    first = jnp.asarray(rng.normal(size=(d, hidden)) / d**0.5, jnp.float32)
    second = jnp.asarray(rng.normal(size=(hidden, classes)), jnp.float32)

    def logits_fn(x):
        return jax.nn.relu((x.reshape(x.shape[0], -1) - 0.5) @ first * 4) @ second

    return logits_fn


def images(n: int, seed: int = 1, shape=SHAPE) -> np.ndarray:
    """Uniform random images, a few values on the bounds."""
    x = np.random.default_rng(seed).uniform(-0.1, 1.1, (n, *shape))
    return np.clip(x, 0, 1).astype(np.float32)


def labelled(n: int, classes: int = 10, wrong: int = 2):
    """A network, images and the labels that it gives them, `wrong` of them changed."""
    f, x = network(classes), images(n)
    y = np.argmax(np.asarray(f(x)), -1).astype(np.int32)
    y[:wrong] = (y[:wrong] + 1) % classes
    return f, x, y


def distance(x_adv, x, norm: str) -> np.ndarray:
    """Per example, in float64."""
    delta = np.abs(np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)).reshape(len(x), -1)
    return {"linf": delta.max(-1), "l2": np.sqrt((delta**2).sum(-1)), "l1": delta.sum(-1)}[norm]


def check_inside(x_adv, x, norm: str, eps: float) -> None:
    """In the box exactly, in the ball within 1e-5 eps."""
    assert np.min(x_adv) >= 0 and np.max(x_adv) <= 1
    assert distance(x_adv, x, norm).max() <= eps * (1 + 1e-5)
