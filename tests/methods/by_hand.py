"""A method's parts called outside a step, on one device, so that a test can look at what goes in and what comes out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import models
from advjax.data import epoch_order
from advjax.methods.base import Batch, Context, Method, Network, State
from tests.helpers import CLASSES, SHAPE, ToyNet


def variables(seed: int, module: Any = None) -> dict[str, Any]:
    """Variables of a network in which no BatchNorm is an identity: every leaf moved from where it starts."""
    rng = np.random.default_rng(seed)
    fresh = models.init(module or ToyNet(), jax.random.key(seed), SHAPE)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.uniform(0.05, 0.5, leaf.shape), leaf.dtype), fresh)


def make_context(method: Method, *, batch: int = 8, seed: int = 0, phase=None, epoch: int = 0, rows=None) -> Context:
    """A step's context with random images, labels and networks (`rows`: the batch's rows of the state, if given)."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, batch)
    state = method.init_state(label, CLASSES)
    weight = jnp.ones(batch)
    nets: dict[str, Network] = {}
    for index, name in enumerate((*method.trained, *method.frozen)):
        given = variables(seed + index)
        nets[name] = Network(ToyNet(), given["params"], given["batch_stats"], weight, jax.random.key(index))
    for name, source in method.averaged.items():
        nets[name] = dataclasses.replace(nets[source])
    return Context(
        nets=nets,
        state=state if rows is None else State(state.shared, rows),
        batch=Batch(
            jnp.asarray(rng.uniform(0, 1, (batch, *SHAPE)), jnp.float32),
            jnp.asarray(label, jnp.int32),
            jnp.arange(batch, dtype=jnp.int32),
            weight,
            tuple(jnp.asarray(rng.uniform(0, 1, (batch, *SHAPE)), jnp.float32) for _ in range(method.views - 1)),
        ),
        epoch=jnp.asarray(epoch),
        epochs=10,
        phase=phase,
        group=0,
        num_classes=CLASSES,
        psum=lambda tree: tree,
    )


def loss_and_gradients(method: Method, context: Context, adversarial: Any):
    """(loss, gradients by network, aux) at the context's own parameters."""
    at = {name: context.nets[name].params for name in method.update_groups[context.group]}

    def loss(at):
        return method.loss(context.with_params(at), adversarial, jax.random.key(0))

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(at)
    return value, gradients, aux


@dataclasses.dataclass(frozen=True)
class Inverted:
    """An attack that is easy to follow by hand: x' = 1 - x."""

    statistics: str = "running"

    def __call__(self, context, key, net, target, objective="ce", scale=1.0):
        return 1.0 - context.batch.image, net

    def craft(self, context, key, objective):
        return 1.0 - context.batch.image

    def logits(self, net, x):
        """Of the images x in evaluation mode."""
        return net.logits_fn(x)


def first_batch(run: Any) -> jax.Array:
    """The clean images of a run's first step."""
    index, _ = epoch_order(run.seed, 0, len(run.data.label), run.batch_size)
    return jnp.asarray(run.data.image[index[0]] / 255.0, jnp.float32)


def first_layer_mean(params: Any, x: jax.Array) -> jax.Array:
    """The means that the first BatchNorm sees on the images x."""
    _, state = ToyNet().apply(
        {"params": params}, x, capture_intermediates=True, mutable=["intermediates", "batch_stats"], train=True
    )
    return jnp.mean(state["intermediates"]["Conv_0"]["__call__"][0], (0, 1, 2))
