"""The one place where a network's evaluation-mode function is made."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
from jax.tree_util import Partial


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
    """
    return Partial(Evaluation(module), {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})})
