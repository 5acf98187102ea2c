"""AWP: adversarial weight perturbation (Wu et al. 2020), around any method."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp

from advjax.fields import at_least, between, field
from advjax.methods.base import Context, reached
from advjax.methods.wrapper import Wrapper


def weight_perturbation(params: Any, direction: Any, gamma: float) -> Any:
    """v = gamma ||w||_F / (||d||_F + 1e-20) d for every kernel (two dimensions or more), 0 for biases and BatchNorm.

    Args:
        params: w, a pytree of arrays.
        direction: d, of the same structure; its scale does not matter, tensor by tensor.
        gamma: norm of v relative to that of w.
    """

    def one(w, d):
        if w.ndim < 2:
            return jnp.zeros_like(w)
        return gamma * jnp.linalg.norm(w.ravel()) / (jnp.linalg.norm(d.ravel()) + 1e-20) * d

    return jax.tree.map(one, params, direction)


@dataclasses.dataclass(frozen=True)
class AWP(Wrapper):
    """min over w of max over ||v_l|| <= gamma ||w_l|| of the wrapped method's loss at w + v, v from one ascent step.

    Once x' is made, a proxy in training mode ascends the wrapped loss (or what its authors ascend instead,
    `Method.proxy_loss`) by one plain step from w; v is the direction of that step, scaled tensor by tensor (see
    `weight_perturbation`), so the proxy's learning rate cancels. Forwards, gradient and the optimizer's step happen at
    w + v, so weight decay acts on w + v; then v is taken away again. The proxy's statistics are thrown away.

    Source: the authors' code. A method name that ends in `_awp` wraps the method before it, the fields below being
    `method.awp_gamma` and `method.awp_warmup`.

    Attributes:
        gamma: norm of v relative to that of w, per kernel.
        warmup: AWP begins with epoch round(warmup * epochs), counted from 1.
    """

    gamma: float = field(0.01, at_least(0), "norm of the weights' perturbation relative to theirs, per kernel")
    warmup: float = field(0.0, between(0, 1), "fraction of the run after which it begins")

    @property
    def divisible(self) -> bool:
        return False

    def own_phase(self, epoch: int, epochs: int) -> Hashable:
        return reached(self.warmup, epoch, epochs)

    def perturb_weights(self, context: Context, adversarial: Any, key: jax.Array) -> dict[str, Any]:
        (active, _), context = self.own(context), self.inner(context)
        at = self.base.perturb_weights(context, adversarial, key)
        if not active:
            return at

        def proxy_loss(params):
            return self.base.proxy_loss(context.with_params(params), adversarial, key)

        # Summed, not averaged, over devices: the scale of a direction does not matter.
        direction = context.psum(jax.grad(proxy_loss)(at))
        return jax.tree.map(jnp.add, at, weight_perturbation(at, direction, self.gamma))
