"""The one place where a network's evaluation-mode function is made, and the one where its training forward is."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
from jax.tree_util import Partial

from advjax.models.layers import ImageClassifier, TrainMode


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`(variables, images) -> logits` of a module in evaluation mode; equal for equal modules.

    Attributes:
        module: a linen module with `__call__(x, train=False)`.
    """

    module: nn.Module

    def __call__(self, variables: Any, x: jax.Array) -> jax.Array:
        """Logits [B, K] of images `x` [B, H, W, C]; nothing is updated."""
        return cast(jax.Array, self.module.apply(variables, x, train=False))


def logits_fn(module: nn.Module, variables: Any) -> Partial:
    """The evaluation-mode function of a network, images [B, H, W, C] to logits [B, K].

    It is a pytree that carries its variables, so it can be an argument of a jitted function: new variables of the same
    module, or an equal module, compile nothing anew.

    Args:
        module: a linen module.
        variables: `{"params": ..., "batch_stats": ...}`.

    Returns:
        A `jax.tree_util.Partial`, called with images.

    Examples:
        >>> from advjax import models
        >>> module = models.create("tiny_cnn", num_classes=3)
        >>> f = logits_fn(module, models.init(module, jax.random.key(0), (4, 4, 1)))
        >>> f(jax.numpy.zeros((2, 4, 4, 1))).shape
        (2, 3)
    """
    return Partial(Evaluation(module), {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})})


def training_forward(
    module: nn.Module, variables: Any, x: jax.Array, mode: TrainMode, key: jax.Array
) -> tuple[jax.Array, Any]:
    """A training forward of any network.

    Args:
        module: a linen module or an adapter (`advjax.models.adapters`).
        variables: `{"params": ..., "batch_stats": ...}`.
        x: images [B, H, W, C] in [0, 1].
        mode: the batch that they belong to, its weight as long as x.
        key: for whatever the forward draws; a network that draws nothing ignores it.

    Returns:
        Logits [B, K] and the statistics that this forward moved, no gradient in them, the same on all devices where
        the mode names their axis. A linen module from outside, whose BatchNorm may know nothing of other devices,
        has its statistics averaged over them.
    """
    logits, updated = module.apply(variables, x, train=mode, mutable=["batch_stats"], rngs={"dropout": key})
    stats = jax.lax.stop_gradient(updated.get("batch_stats", variables.get("batch_stats", {})))
    foreign = isinstance(module, nn.Module) and not isinstance(module, ImageClassifier)
    if foreign and mode.axis_name is not None:
        stats = jax.lax.pmean(stats, mode.axis_name)
    return logits, stats


def is_stochastic(module: nn.Module) -> bool:
    """Whether a network's training forward draws random numbers; one that does not say (`stochastic`) may."""
    return bool(getattr(module, "stochastic", True))
