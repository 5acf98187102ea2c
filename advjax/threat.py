"""Geometry of the threat models: norms, projections, steepest steps and random starts. No networks here.

Images are float32 [B, ...] in [0, 1]; `eps` is a scalar or one radius per example, [B]. Norms are `"linf"`, `"l2"`
and `"l1"` (`canonical_norm` accepts the usual other spellings).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from advjax.errors import InputError, unknown

NORMS = ("linf", "l2", "l1")
STARTS = ("none", "uniform", "uniform_unclipped", "normal")

_ALIASES = {"inf": "linf", "2": "l2", "1": "l1", "2.0": "l2", "1.0": "l1"}


def canonical_norm(norm: object) -> str:
    """`"linf"`, `"l2"` or `"l1"` for any usual spelling (`"Linf"`, `"l_inf"`, `numpy.inf`, `2`, ...).

    Raises:
        InputError: the norm is none of the three.

    Examples:
        >>> [canonical_norm(norm) for norm in ("Linf", "l_2", 1)]
        ['linf', 'l2', 'l1']
    """
    name = str(norm).lower().replace("_", "").replace("∞", "inf")
    name = _ALIASES.get(name, name)
    if name not in NORMS:
        raise unknown("norm", norm, NORMS)
    return name


def max_radius(norm: str, image_shape: tuple[int, ...]) -> float:
    """The diameter of the box [0, 1]^d in `norm`: the largest radius that means anything."""
    d = float(np.prod(image_shape))
    return {"linf": 1.0, "l2": d**0.5, "l1": d}[canonical_norm(norm)]


def per_example(value: jax.typing.ArrayLike, like: jax.Array) -> jax.Array:
    """A number or [B], shaped so that it broadcasts against `like`, [B, ...]."""
    value = jnp.asarray(value, like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def norm(delta: jax.Array, norm: str) -> jax.Array:
    """The norm of every example, [B, ...] -> [B].

    Examples:
        >>> norm(jnp.array([[3.0, -4.0]]), "l2")
        Array([5.], dtype=float32)
    """
    flat, norm = jnp.abs(_flat(delta)), canonical_norm(norm)
    if norm == "linf":
        return flat.max(-1)
    if norm == "l2":
        return jnp.sqrt(jnp.sum(flat * flat, -1))
    return flat.sum(-1)


def project_ball(delta: jax.Array, norm: str, eps: jax.typing.ArrayLike) -> jax.Array:
    """The nearest (in l_2) point of the `norm` ball of radius `eps` around 0, for every example of `delta` [B, ...].

    The l_1 projection is soft thresholding (Duchi et al. 2008), exact up to a final rescaling that keeps the rounding
    of float32 sums from showing at an l_1 radius of 12.

    Examples:
        >>> project_ball(jnp.array([[3.0, -4.0]]), "l2", 1.0).tolist()
        [[0.6, -0.8]]
        >>> project_ball(jnp.array([[3.0, -4.0]]), "l1", 1.0)  # soft thresholding
        Array([[ 0., -1.]], dtype=float32)
    """
    if isinstance(eps, (int, float)) and not eps >= 0:
        raise InputError(f"eps must be at least 0, it is {eps}")
    radius, norm = per_example(eps, delta), canonical_norm(norm)
    if norm == "linf":
        return jnp.clip(delta, -radius, radius)
    if norm == "l2":
        length = per_example(_l2(delta), delta)
        return delta * jnp.minimum(1.0, radius / jnp.maximum(length, 1e-12))
    flat = _flat(delta)
    room = jnp.full_like(flat, jnp.inf)
    return _shrink_l1(flat, room, eps).reshape(delta.shape)


def _l2(delta: jax.Array) -> jax.Array:
    return norm(delta, "l2")


def _shrink_l1(y: jax.Array, room: jax.Array, eps: jax.typing.ArrayLike) -> jax.Array:
    """sign(y) min(max(|y| - lam, 0), room) with the smallest lam >= 0 whose l_1 norm is at most eps; all [B, d].

    The norm falls piecewise linearly in lam. `largest_float` finds the last lam whose norm still exceeds eps, 10 to 30
    times faster than sorting the breakpoints on CPU; two Newton steps on that linear piece remove its rounding.
    """
    size = jnp.abs(y)
    eps = jnp.broadcast_to(jnp.asarray(eps, y.dtype), y.shape[:1])[:, None]

    def shrunk(lam):
        return jnp.clip(size - lam, 0.0, room)

    start = shrunk(0.0).sum(-1, keepdims=True)
    lam = largest_float(lambda lam: shrunk(lam).sum(-1, keepdims=True) > eps, start)
    for _ in range(2):
        value = shrunk(lam)
        moving = jnp.sum((size > lam) & (size - lam <= room), -1, keepdims=True)
        lam = jnp.maximum(lam + (value.sum(-1, keepdims=True) - eps) / jnp.maximum(moving, 1), 0.0)
    value = shrunk(jnp.where(start > eps, lam, 0.0))
    value = value * jnp.minimum(1.0, eps / jnp.maximum(value.sum(-1, keepdims=True), 1e-12))
    return jnp.sign(y) * value


def project(x_adv: jax.Array, x: jax.Array, norm: str, eps: jax.typing.ArrayLike) -> jax.Array:
    """`x_adv` into the ball of radius `eps` around `x`, then into the box [0, 1].

    Clipping moves every coordinate towards `x`, which lies in the box, so the result is inside both.

    Examples:
        >>> project(jnp.array([[0.9, 0.1]]), jnp.array([[0.2, 0.1]]), "linf", 0.5).tolist()
        [[0.7, 0.1]]
    """
    return jnp.clip(x + project_ball(x_adv - x, norm, eps), 0.0, 1.0)


def project_l1_box(x_adv: jax.Array, x: jax.Array, eps: jax.typing.ArrayLike) -> jax.Array:
    """The nearest point (in l_2) to `x_adv` in the intersection of the l_1 ball around `x` and the box [0, 1].

    Exact (Croce and Hein 2021, "Mind the box"): ball first, box second is not, and makes l_1 attacks weaker.

    Examples:
        >>> x = jnp.array([[0.9, 0.5]])
        >>> project_l1_box(x + jnp.array([[0.5, 0.5]]), x, 0.5).tolist()  # 0.1 fit in the box, the rest goes elsewhere
        [[1.0, 0.9]]
    """
    y, flat = _flat(x_adv - x), _flat(x)
    room = jnp.where(y > 0, 1.0 - flat, flat)
    return jnp.clip(x + _shrink_l1(y, room, eps).reshape(x.shape), 0.0, 1.0)


def largest_float(holds: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
    """The largest float32 >= 0 for which `holds` is true, elementwise in the shape of `like`; 0 if there is none.

    `holds` must be true up to some value and false beyond it. Non-negative floats are ordered as their bits are, so
    setting one bit after the other, 31 evaluations find the value exactly.
    """

    def body(k, bits):
        trial = bits | (1 << (30 - k))
        value = jax.lax.bitcast_convert_type(trial, jnp.float32)
        return jnp.where(holds(value) & (value <= jnp.finfo(jnp.float32).max), trial, bits)

    bits = jax.lax.fori_loop(0, 31, body, jnp.zeros(like.shape, jnp.int32))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def kth_largest(size: jax.Array, k: jax.typing.ArrayLike) -> jax.Array:
    """The `k`-th largest entry (k >= 1, a number or [B]) of the non-negative `size` [B, d]; -> [B, 1]."""
    k = jnp.broadcast_to(jnp.asarray(k), size.shape[:1])[:, None]
    return largest_float(lambda value: jnp.sum(size >= value, -1, keepdims=True) >= k, size[:, :1])


def top_k(size: jax.Array, k: jax.typing.ArrayLike) -> jax.Array:
    """A mask of the `k` largest entries of `size` >= 0 per example ([B, ...]); `k` a number or [B], possibly traced.

    Among equals the earlier ones are taken.
    """
    flat = _flat(size)
    k = jnp.broadcast_to(jnp.asarray(k), flat.shape[:1])[:, None]
    least = kth_largest(flat, k[:, 0])
    above, equal = flat > least, flat == least
    room = k - jnp.sum(above, -1, keepdims=True)
    return (above | (equal & (jnp.cumsum(equal, -1) <= room))).reshape(size.shape)


def steepest_step(
    gradient: jax.Array, norm: str, *, x: jax.Array | None = None, k: jax.typing.ArrayLike = 1, gap: float = 0.0
) -> jax.Array:
    """The direction of unit `norm` in which a linear function with this gradient rises fastest.

    Args:
        gradient: [B, ...].
        norm: `"linf"` (the sign), `"l2"` (the normalised gradient) or `"l1"` (the sign on the `k` coordinates with the
            largest gradients, 1/k each; k = 1 is the steepest step, larger k a common, faster variant).
        x: for l_1, the point itself: coordinates within `gap` of the bound that the gradient points at are left out,
            since they cannot move.
        k: for l_1, a number or one per example.
        gap: for l_1, see `x`.

    Returns:
        [B, ...]; zero where the gradient is zero.

    Examples:
        >>> gradient = jnp.array([[3.0, -4.0]])
        >>> steepest_step(gradient, "linf")
        Array([[ 1., -1.]], dtype=float32)
        >>> steepest_step(gradient, "l1")
        Array([[ 0., -1.]], dtype=float32)
    """
    norm = canonical_norm(norm)
    if norm == "linf":
        return jnp.sign(gradient)
    if norm == "l2":
        return gradient / (per_example(_l2(gradient), gradient) + 1e-12)
    size = jnp.abs(gradient)
    if x is not None:
        stuck = ((gradient > 0) & (x >= 1.0 - gap)) | ((gradient < 0) & (x <= gap))
        size = jnp.where(stuck, 0.0, size)
    return jnp.where(top_k(size, k) & (size > 0), jnp.sign(gradient), 0.0) / per_example(k, gradient)


def example_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    """One key per example, a function of `key` and the example's id alone."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def random_start(
    key: jax.Array, x: jax.Array, ids: jax.Array, norm: str, eps: jax.typing.ArrayLike, kind: str = "uniform"
) -> jax.Array:
    """The point at which an attack on `x` starts.

    Args:
        key: random key; every example's noise depends on it and on the example's id only.
        x: clean images [B, ...].
        ids: example ids [B], int32.
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number or [B].
        kind: `"none"` (x itself), `"uniform"` (uniform in the ball, then clipped to the box), `"uniform_unclipped"`
            (the same, not clipped: ARD, IAD and TE take their first gradient there) or `"normal"` (x + 0.001 N(0, I),
            TRADES and its descendants, whatever the norm).

    Returns:
        [B, ...]; only `"uniform"` is sure to lie in the box, and `"normal"` in neither ball nor box for a tiny `eps`.
    """
    if kind not in STARTS:
        raise unknown("start", kind, STARTS)
    if kind == "none":
        return x
    norm = canonical_norm(norm)
    keys = example_keys(key, ids)
    shape, dtype = x.shape[1:], x.dtype
    if kind == "normal":
        return x + 0.001 * jax.vmap(lambda k: jax.random.normal(k, shape, dtype))(keys)
    noise = jax.vmap(lambda k: _uniform_in_ball(k, shape, dtype, norm))(keys)
    start = x + per_example(eps, x) * noise
    return start if kind == "uniform_unclipped" else jnp.clip(start, 0.0, 1.0)


def _uniform_in_ball(key: jax.Array, shape: tuple[int, ...], dtype, norm: str) -> jax.Array:
    """A point drawn uniformly from the unit ball of `norm`."""
    if norm == "linf":
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0)
    direction, radius = jax.random.split(key)
    scale = jax.random.uniform(radius, (), dtype) ** (1.0 / np.prod(shape))
    if norm == "l2":
        point = jax.random.normal(direction, shape, dtype)
        return scale * point / jnp.sqrt(jnp.sum(point * point))
    point = jax.random.laplace(direction, shape, dtype)
    return scale * point / jnp.sum(jnp.abs(point))
