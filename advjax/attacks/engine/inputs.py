"""Checks of what a caller hands to an attack. They look at values only where there are any, that is, outside `jit`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from advjax import threat
from advjax.attacks.engine.loops import as_partial, is_traced
from advjax.errors import InputError


def check_attack(x, y, norm: str, eps, *, steps: int = 1, restarts: int = 1) -> None:
    """Raises `InputError` unless images, targets and budget make sense.

    Args:
        x: images [B, H, W, C], all values in [0, 1].
        y: labels or probabilities, as many as images.
        norm: canonical norm.
        eps: a number or [B], at least 0 and at most the image's diameter in that norm.
        steps: at least 0.
        restarts: at least 1.
    """
    if getattr(x, "ndim", 0) < 2:
        raise InputError(f"x must be a batch of images [B, H, W, C], it has shape {np.shape(x)}")
    if len(x) != len(y):
        raise InputError(f"x and y must have the same length, they have {len(x)} and {len(y)}")
    if steps < 0:
        raise InputError(f"steps (attack.steps) must be at least 0, it is {steps}")
    if restarts < 1:
        raise InputError(f"restarts must be at least 1, it is {restarts}")
    if not is_traced(eps):
        check_radius(norm, eps, tuple(x.shape[1:]))
        if np.ndim(eps) and np.shape(eps) != (len(x),):
            raise InputError(f"eps must be a number or one per image, [{len(x)}], it has shape {np.shape(eps)}")
    if not is_traced(x) and len(x):
        with jax.ensure_compile_time_eval():  # x may be a constant of a function that is being traced
            low, high = float(jnp.min(x)), float(jnp.max(x))
        if not (low >= 0.0 and high <= 1.0):
            raise InputError(f"x must lie in [0, 1], it spans {low:g} to {high:g}")


def check_radius(norm: str, eps, image_shape: tuple[int, ...], field: str = "eps") -> None:
    """Raises `InputError` unless every radius is in [0, diameter of the image in `norm`]."""
    limit = threat.max_radius(norm, image_shape)
    values = np.asarray(eps, np.float64)
    if not np.all((values >= 0) & (values <= limit * (1 + 1e-6))):
        worst = float(values.ravel()[np.argmax(np.abs(values))])
        hint = f"; did you mean {worst:g}/255?" if norm == "linf" and 1 < worst <= 255 else ""
        raise InputError(f"{field} must be between 0 and {limit:g} for {norm}, it is {worst:g}{hint}")


def default_ids(ids: jax.Array | None, n: int) -> jax.Array:
    """`ids` as int32 [n]; 0..n-1 if absent."""
    ids = jnp.arange(n, dtype=jnp.int32) if ids is None else jnp.asarray(ids, jnp.int32)
    if ids.shape != (n,):
        raise InputError(f"ids must be one per image, [{n}], they have shape {ids.shape}")
    return ids


@jax.jit
def _apply(logits_fn: Callable, *args: jax.Array):  # jitted for its memory: no network is traced twice
    return logits_fn(*args)


def count_classes(logits_fn: Callable, image_shape: tuple[int, ...], *, stochastic: bool = False) -> int:
    """K of `logits_fn`, which is looked at without being run.

    Raises:
        InputError: it does not map images [B, H, W, C] to logits [B, K] with K >= 2.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    key = (jax.eval_shape(lambda: jax.random.key(0)),) if stochastic else ()
    out = _apply.eval_shape(as_partial(logits_fn), image, *key)
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        raise InputError(f"logits_fn must map images [B, H, W, C] to logits [B, K]; for one image it gives {out}")
    if shape[1] < 2:
        raise InputError(f"an attack needs at least two classes, the logits have {shape[1]}")
    return shape[1]


def check_labels(y, num_classes: int) -> None:
    """Raises `InputError` unless `y` holds integers [B] in 0..num_classes-1."""
    if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise InputError(f"y must be integer labels [B], it is {y.dtype} of shape {y.shape}")
    if not is_traced(y) and len(y):
        values = np.asarray(y)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= num_classes:
            raise InputError(
                f"y must be labels in 0..{num_classes - 1} (the logits' classes), they span {low} to {high}"
            )
