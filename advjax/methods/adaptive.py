"""A method's own loss of an adversarial image, evaluation mode: what an adaptive attack on its networks maximises."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from advjax.methods.base import Batch, Context, Method, Network, State


@dataclasses.dataclass(frozen=True)
class Resting(Network):
    """A network whose training forwards are those of evaluation mode, and move nothing."""

    def train(
        self,
        x: jax.Array,
        reuse_logits: jax.Array | None = None,
        momentum: jax.typing.ArrayLike | None = None,
    ) -> tuple[jax.Array, Network]:
        return self.logits_fn(x) if reuse_logits is None else reuse_logits, self


@dataclasses.dataclass(frozen=True)
class _Loss:
    """`(variables, state, x', x, y) -> [B]`; equal for equal methods and networks, so that it compiles once."""

    method: Method
    modules: tuple[tuple[str, nn.Module], ...]
    network: str
    num_classes: int
    epochs: int

    def __call__(
        self, variables: Mapping[str, Any], state: State, x_adv: jax.Array, x: jax.Array, y: jax.Array
    ) -> jax.Array | None:
        count, nets = len(x), {}
        for name, module in self.modules:
            own = variables[name]
            nets[name] = Resting(module, own["params"], own.get("batch_stats", {}), None, jax.random.key(0))
        context = Context(
            nets=nets,
            state=state,
            batch=Batch(x, y, jnp.arange(count, dtype=jnp.int32), jnp.ones(count)),
            epoch=jnp.asarray(self.epochs - 1, jnp.int32),
            epochs=self.epochs,
            phase=self.method.phase(self.epochs - 1, self.epochs),
            group=0,
            num_classes=self.num_classes,
            psum=lambda tree: tree,
        )
        return self.method.adaptive_loss(context, self.network, x_adv)


def own_loss(
    method: Method,
    network: str,
    modules: Mapping[str, nn.Module],
    variables: Mapping[str, Any],
    num_classes: int,
    epochs: int,
    image_shape: tuple[int, int, int],
) -> jax.tree_util.Partial | None:
    """What an adaptive attack on a network of a method maximises, as of the last epoch: `(x', x, y) -> [B]`.

    Args:
        method: that trained it. What it remembers beside the networks is as before the first step.
        network: the attacked one's name among the trained ones.
        modules: name -> module, of every network of the method.
        variables: name -> variables of every network of the method, teachers included.
        num_classes: number of classes.
        epochs: length of the training.
        image_shape: (H, W, C).

    Returns:
        A pytree that carries the networks; None where the method's loss of an adversarial image is the cross-entropy, or
        it does not say (`Method.adaptive_loss`).
    """
    state = method.init_state(np.zeros(1, np.int32), num_classes)
    used = tuple((name, modules[name]) for name in sorted(variables))
    loss = jax.tree_util.Partial(_Loss(method, used, network, num_classes, epochs), dict(variables), state)
    x, y = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    return None if jax.eval_shape(loss, x, x, y) is None else loss
