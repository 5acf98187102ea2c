"""What AutoAttack's attacks may ask of a network: values, gradients and verdicts, per example."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from advjax import compiling, losses, threat
from advjax.arithmetic import flops_of
from advjax.attacks.engine.inputs import (
    as_array,
    as_number,
    check_budget,
    check_images,
    check_key,
    check_labels,
    count_classes,
    trace,
)
from advjax.attacks.engine.loops import as_partial
from advjax.errors import InputError

Keys = jax.Array | None
TargetedLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Loss = str | losses.Objective


class Example(NamedTuple):
    """A batch of images under attack; everything that an attack does to one depends on its own row only.

    Attributes:
        x: clean images [B, H, W, C].
        y: labels [B].
        eps: radii [B].
        id: ids of the images [B], int32, which key their noise.
        trial: which restart or target this is [B], int32.
        target: the class that a targeted attack aims at [B].
    """

    x: jax.Array
    y: jax.Array
    eps: jax.Array
    id: jax.Array
    trial: jax.Array
    target: jax.Array

    def keys(self, key: jax.Array) -> jax.Array:
        """One key per row, a function of `key`, the trial and the id alone; -> [B]."""
        return jax.vmap(lambda trial, i: jax.random.fold_in(jax.random.fold_in(key, trial), i))(self.trial, self.id)


def fold(keys: Keys, i: jax.typing.ArrayLike) -> Keys:
    """Keys [B] for the i-th use of `keys`; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, i)


def _targeted_margin(logits, y, target):
    own, other = (jnp.take_along_axis(logits, label[:, None], -1)[:, 0] for label in (y, target))
    return other - own


LOSSES: dict[str, TargetedLoss] = {
    "ce": lambda logits, y, target: losses.cross_entropy(logits, y),
    "margin": lambda logits, y, target: losses.margin(logits, y),
    "probability_margin": lambda logits, y, target: losses.probability_margin(logits, y),
    "cw": lambda logits, y, target: losses.cw(logits, y),
    "dlr": lambda logits, y, target: losses.dlr(logits, y),
    "margin_targeted": _targeted_margin,
    "dlr_targeted": losses.dlr_targeted,
}


def loss_values(loss: Loss, logits: jax.Array, e: Example) -> jax.Array:
    """A loss by its name in `LOSSES`, or any function `(logits, y) -> [B]`."""
    return loss(logits, e.y) if callable(loss) else LOSSES[loss](logits, e.y, e.target)


def is_wrong(
    logits: jax.typing.ArrayLike, y: jax.typing.ArrayLike, non_finite: str = "broken"
) -> tuple[jax.Array, jax.Array]:
    """Whether the arg max is not the label, and whether any logit is NaN or infinite, which settles the first; [B] both.

    Args:
        logits: [B, K].
        y: [B].
        non_finite: `"broken"` counts logits that are not finite as wrong, `"robust"` as right.
    """
    strange = ~jnp.all(jnp.isfinite(logits), -1)
    return jnp.where(strange, non_finite == "broken", jnp.argmax(logits, -1) != y), strange


class Answer(NamedTuple):
    """What a network says of a batch of points.

    Attributes:
        value: the loss [B].
        wrong: whether they are misclassified [B].
        non_finite: whether logits are NaN or infinite [B].
    """

    value: jax.Array
    wrong: jax.Array
    non_finite: jax.Array


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


@struct.dataclass
class Oracle:
    """A network as the attacks see it.

    Attributes:
        logits_fn: images [B, H, W, C] to logits [B, K]; with `stochastic`, a function of (images, key).
        stochastic: whether the network is randomised and takes a key. It is then called once per example and draw under
            `vmap`, so that an example's noise does not depend on the batch around it.
        eot_samples: over how many forwards a gradient is averaged and a verdict voted on (expectation over transformation).
        search_dtype: the precision of the search, e.g. `"bfloat16"`; a success always counts only if the float32
            network agrees. Casts the images and the arrays that `logits_fn` carries if it is a pytree
            (`advjax.logits_fn`); arrays that a plain function closes over stay as they are.
        non_finite: `"broken"` or `"robust"`: what logits that are NaN or infinite count as.
    """

    logits_fn: jax.tree_util.Partial
    stochastic: bool = struct.field(pytree_node=False, default=False)
    eot_samples: int = struct.field(pytree_node=False, default=1)
    search_dtype: str | None = struct.field(pytree_node=False, default=None)
    non_finite: str = struct.field(pytree_node=False, default="broken")

    def keys(self, e: Example, key: jax.Array, ticks: jax.Array) -> Keys:
        """The keys [B] of a randomised network at an iteration [B]; None for any other, which saves compiling them."""
        return jax.vmap(jax.random.fold_in)(e.keys(key), ticks + 1) if self.stochastic else None

    def flops(self, image_shape: tuple[int, ...]) -> float:
        """Floating-point operations of the convolutions and products of one image's forward."""
        traced = trace(self.logits_fn, image_shape, stochastic=self.stochastic)
        try:
            return self.eot_samples * flops_of(traced.jaxpr.jaxpr, most=True) / traced.out_info.shape[0]
        except ValueError:  # loops whose length depends on the data: much, then
            return math.inf

    def logits(self, x: jax.Array | np.ndarray, keys: Keys, *, search: bool = False) -> jax.Array:
        """Logits of one forward, [B, K] float32."""
        function = self.logits_fn
        if search and self.search_dtype is not None:
            function, x = _cast(function, self.search_dtype), x.astype(self.search_dtype)
        if not self.stochastic:
            return function(x).astype(jnp.float32)
        return jax.vmap(lambda image, key: function(image[None], key)[0])(x, keys).astype(jnp.float32)

    def expectation(self, function: Callable[[Keys], Any], keys: Keys) -> Any:
        """The mean over `eot_samples` of a pytree that `function` makes of the keys [B] of one draw."""
        if self.eot_samples == 1:
            return function(keys)

        def draw(total, i):
            value = function(fold(keys, i))
            return jax.tree.map(lambda t, v: t + v / self.eot_samples, total, value), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), jax.eval_shape(function, keys))
        # Unrolled on CPU, where loops slow convolutions down (see `loops.repeat`).
        unroll = self.eot_samples if compiling.platform() == "cpu" else 1
        return jax.lax.scan(draw, zeros, jnp.arange(self.eot_samples), unroll=unroll)[0]

    def mean_logits(self, x: jax.Array, keys: Keys) -> jax.Array:
        """Float32 logits, averaged over the draws, [B, K]."""
        return self.expectation(lambda keys: self.logits(x, keys), keys)

    def majority(self, share: jax.Array) -> jax.Array:
        """Whether a share [B] of the draws is more than half of them, whatever the rounding of the mean."""
        return share > 0.5 + 0.25 / self.eot_samples

    def _shares(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        """One draw's verdicts as numbers that a mean makes sense of: wrong, not finite; [B, 2]."""
        return jnp.stack(is_wrong(logits, y, self.non_finite), -1).astype(jnp.float32)

    def vote(self, x: jax.Array, y: jax.Array, keys: Keys) -> tuple[jax.Array, jax.Array]:
        """Whether more than half of the float32 draws misclassify, and whether any is not finite; [B] both."""
        shares = self.expectation(lambda keys: self._shares(self.logits(x, keys), y), keys)
        return self.majority(shares[:, 0]), shares[:, 1] > 0

    def confirm(self, shares: jax.Array, x: jax.Array, y: jax.Array, keys: Keys) -> tuple[jax.Array, jax.Array]:
        """`vote` as the search saw it, `wrong` kept where fresh float32 forwards agree; free for a float32 search."""
        wrong, strange = self.majority(shares[:, 0]), shares[:, 1] > 0
        if self.eot_samples == 1 and self.search_dtype is None:
            return wrong, strange

        def fresh_vote():
            fresh, strange = self.vote(x, y, fold(keys, self.eot_samples))
            return wrong & fresh, strange

        return jax.lax.cond(jnp.any(wrong | strange), fresh_vote, lambda: (wrong, strange))

    def value(self, loss: Loss, x: jax.Array, e: Example, keys: Keys) -> Answer:
        """The loss and the verdict at `x`, from one forward per draw."""

        def draw(keys):
            logits = self.logits(x, keys, search=True)
            return loss_values(loss, logits, e), self._shares(logits, e.y)

        value, shares = self.expectation(draw, keys)
        wrong, strange = self.confirm(shares, x, e.y, keys)
        return Answer(value, wrong, strange)

    def gradient(
        self, loss: Loss, x: jax.Array, e: Example, keys: Keys, *, verdict: bool = True
    ) -> tuple[Answer, jax.Array]:
        """The loss and the verdict (unconfirmed without `verdict`) at `x`, and the gradient [B, H, W, C], 0 where it is
        not finite."""

        def draw(keys):
            def total(x):
                logits = self.logits(x, keys, search=True)
                value = loss_values(loss, logits, e)
                return jnp.sum(value), (value, self._shares(logits, e.y))

            gradient, (value, shares) = jax.grad(total, has_aux=True)(x)
            return value, shares, gradient

        value, shares, gradient = self.expectation(draw, keys)
        if verdict:
            wrong, strange = self.confirm(shares, x, e.y, keys)
        else:
            wrong, strange = self.majority(shares[:, 0]), shares[:, 1] > 0
        return Answer(value, wrong, strange), jnp.where(jnp.isfinite(gradient), gradient, 0.0)

    def jacobian(self, x: jax.Array, keys: Keys) -> tuple[jax.Array, jax.Array]:
        """Logits [B, K] and the gradient of each, [K, B, H, W, C]; one forward and K backwards."""

        def draw(keys):
            logits, pull = jax.vjp(lambda x: self.logits(x, keys, search=True), x)
            rows = jnp.eye(logits.shape[-1])[:, None, :] * jnp.ones_like(logits)
            return logits, jax.vmap(lambda row: pull(row)[0])(rows)

        return self.expectation(draw, keys)


def select(mask: jax.Array, new: Any, old: Any) -> Any:
    """`new` in the rows where `mask` [B] is true, `old` elsewhere; both pytrees of [B, ...]."""
    return jax.tree.map(lambda n, o: jnp.where(mask.reshape(mask.shape + (1,) * (n.ndim - 1)), n, o), new, old)


class Problem(NamedTuple):
    """What a caller asked for, checked: the network as a pytree, images, labels, canonical norm, radius, K."""

    logits_fn: jax.tree_util.Partial
    x: Any
    y: Any
    norm: str
    eps: Any
    num_classes: int


def prepare(logits_fn: Callable, key: Any, x: Any, y: Any, norm: str, eps: Any, *, stochastic: bool = False) -> Problem:
    """Checks what a caller hands to one of AutoAttack's attacks.

    Raises:
        InputError: images outside [0, 1] or not [B, H, W, C] floats, no images, labels that are no classes, no random
            key, a bad radius, logits that are not [B, K] floats with K >= 2.
    """
    norm = threat.canonical_norm(norm)
    x, y, eps = as_array(x, "x"), as_array(y, "y"), as_number(eps, "eps")
    check_key(key)
    check_images(x)
    if x.ndim != 4 or not len(x):
        raise InputError(f"x must be at least one image, [B, H, W, C], it has shape {x.shape}")
    check_budget(norm, eps, x.shape[1:], len(x))
    num_classes = count_classes(logits_fn, x.shape[1:], stochastic=stochastic)
    check_labels(y, num_classes, len(x))
    return Problem(as_partial(logits_fn), x, y, norm, eps, num_classes)


def loss_for(loss: Loss, num_classes: int) -> Loss:
    """`loss` itself, or the margin in place of a DLR loss that needs more classes (DLR three, targeted DLR four)."""
    if not isinstance(loss, str):
        return loss
    needed = {"dlr": 3, "dlr_targeted": 4}.get(loss, 2)
    return loss if num_classes >= needed else loss.replace("dlr", "margin")
