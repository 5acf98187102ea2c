"""MALT: which classes a targeted attack aims at, by how near their boundaries are (Melamed et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from advjax import compiling, threat
from advjax.attacks.engine.inputs import check_count
from advjax.attacks.engine.oracle import prepare

_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


@partial(compiling.jit, static_argnames=("norm", "count", "candidates"))
def nearest_classes(
    logits_fn: Callable, x: jax.Array, y: jax.Array, *, norm: str, count: int, candidates: int
) -> jax.Array:
    """`malt_targets` without its checks; `logits_fn` a pytree."""
    logits = logits_fn(x).astype(jnp.float32)
    own = jnp.arange(logits.shape[-1]) == y[:, None]
    others = jnp.argsort(jnp.where(own, jnp.inf, -logits), -1)[:, :candidates].astype(jnp.int32)

    def distance(other: jax.Array) -> jax.Array:
        def gap(x):
            z = logits_fn(x).astype(jnp.float32)
            return jnp.sum(jnp.take_along_axis(z, other[:, None], -1) - jnp.take_along_axis(z, y[:, None], -1))

        slope = threat.norm(jax.grad(gap)(x), _DUAL[norm])
        fall = logits.max(-1) - jnp.take_along_axis(logits, other[:, None], -1)[:, 0]
        return jnp.where(slope > 0, fall / jnp.where(slope > 0, slope, 1.0), 0.0)

    distances = jax.lax.map(distance, others.T).T
    nearest = jnp.argsort(distances, -1, stable=True)[:, :count]
    return jnp.take_along_axis(others, nearest, -1)


def malt_targets(
    logits_fn: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
    *,
    norm: str,
    count: int = 9,
    candidates: int = 100,
) -> jax.Array:
    """The classes whose linearised boundaries are nearest: (z_best - z_c) / ||grad_x (z_c - z_y)||_q, least first.

    q is dual to `norm` (1 for l_inf, 2 for l_2; infinity for l_1, which the paper does not treat); a class without
    gradient is at distance 0. Only the likeliest wrong classes are looked at, one backward each. As targets of APGD-T
    (`cascade(..., targets="malt")`) they take the place of the likeliest classes; that is not AutoAttack.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode.
        x: clean images [B, H, W, C], float in [0, 1].
        y: labels [B].
        norm: `"linf"`, `"l2"` or `"l1"`.
        count: how many classes, at most K - 1.
        candidates: how many are looked at.

    Returns:
        Classes [B, min(count, candidates, K - 1)], int32.

    Raises:
        InputError: bad images, labels, names or counts.
    """
    problem = prepare(logits_fn, jax.random.key(0), x, y, norm, 0.0)
    check_count(count, "count", 1)
    check_count(candidates, "candidates", 1)
    candidates = min(candidates, problem.num_classes - 1)
    x, y = jnp.asarray(problem.x, jnp.float32), jnp.asarray(problem.y, jnp.int32)
    return nearest_classes(
        problem.logits_fn, x, y, norm=problem.norm, count=min(count, candidates), candidates=candidates
    )
