"""FAB: the fast adaptive boundary attack, which looks for the nearest adversarial point (Croce and Hein 2020b)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import threat
from advjax.attacks.engine.batching import run_alone
from advjax.attacks.engine.inputs import check_count
from advjax.attacks.engine.oracle import Example, Oracle, fold, prepare, select
from advjax.attacks.engine.show import summary
from advjax.errors import InputError


def move_to_hyperplane(point: jax.Array, w: jax.Array, b: jax.Array, norm: str) -> jax.Array:
    """The move of least `norm` that takes `point` in [0, 1]^d to the hyperplane {z : w.z = b}, staying in [0, 1]^d.

    Exact: the moved part of coordinate i is min(lam, room_i) for l_inf and min(lam |w_i|, room_i) for l_2 with the
    lam that closes the gap; for l_1 the rooms are filled in order of decreasing |w_i|, equal ones evenly. Where the box
    does not reach the hyperplane, the move goes to the corner nearest to it.

    Args:
        point: [B, d] in [0, 1].
        w: [B, d].
        b: [B].
        norm: `"linf"`, `"l2"` or `"l1"`.

    Returns:
        The moves [B, d].
    """
    gap = jnp.sum(w * point, -1, keepdims=True) - b[:, None]
    w = jnp.where(gap >= 0, w, -w)
    gap = jnp.abs(gap)
    size = jnp.abs(w)
    room = jnp.where(w > 0, point, 1.0 - point)
    size_moved = _fill(size, size * room, gap) * room if norm == "l1" else _spread(size, room, gap, norm)
    return -jnp.sign(w) * size_moved


def _spread(size: jax.Array, room: jax.Array, gap: jax.Array, norm: str) -> jax.Array:
    """min(lam, room) or min(lam size, room) with sum size * (that) = gap (l_inf, l_2).

    The sum is concave and piecewise linear in lam, so Newton's method from 0 rises to the solution without passing it
    and ends exactly, in one step per piece that it meets.
    """
    rate = jnp.ones_like(size) if norm == "linf" else size

    def newton(lam):
        full = lam * rate >= room
        left = gap - jnp.sum(jnp.where(full, size * room, 0.0), -1, keepdims=True)
        slope = jnp.sum(jnp.where(full, 0.0, size * rate), -1, keepdims=True)
        return jnp.where(slope > 0, jnp.maximum(left / jnp.where(slope > 0, slope, 1.0), lam), lam)

    def going(carry):
        lam, previous, count = carry
        return jnp.any(lam > previous) & (count < 60)

    first = newton(jnp.zeros_like(gap))
    lam = jax.lax.while_loop(
        going, lambda c: (newton(c[0]), c[0], c[2] + 1), (first, jnp.zeros_like(gap), jnp.zeros((), jnp.int32))
    )[0]
    return jnp.minimum(lam * rate, room)


def _fill(size: jax.Array, gain: jax.Array, gap: jax.Array) -> jax.Array:
    """The share of every room that is used when rooms are filled in order of decreasing size until gap is closed."""

    def gained(least):
        return jnp.sum(jnp.where(size >= least, gain, 0.0), -1, keepdims=True)

    last = threat.largest_float(lambda least: gained(least) >= gap, gap)
    before = jnp.sum(jnp.where(size > last, gain, 0.0), -1, keepdims=True)
    at = jnp.sum(jnp.where(size == last, gain, 0.0), -1, keepdims=True)
    part = jnp.where(at > 0, jnp.clip((gap - before) / jnp.where(at > 0, at, 1.0), 0.0, 1.0), 0.0)
    return jnp.where(size > last, 1.0, jnp.where((size == last) & (size > 0), part, 0.0))


class FABState(NamedTuple):
    """One row per example, [B, ...].

    Attributes:
        ticks: iterations so far.
        done: whether the run is over.
        success: whether an adversarial point within the radius was found.
        x_adv: the nearest adversarial point so far, the clean image without one.
        distance: how far it is, infinite without one.
        x: the current point.
        non_finite: whether logits were NaN or infinite at a point within the radius.
    """

    ticks: jax.Array
    done: jax.Array
    success: jax.Array
    x_adv: jax.Array
    distance: jax.Array
    x: jax.Array
    non_finite: jax.Array


@dataclasses.dataclass(frozen=True)
class FAB:
    """The attack as a loop body: one call is one iteration per example.

    Attributes:
        norm: `"linf"`, `"l2"` or `"l1"`.
        targeted: whether the boundary is the one to the example's target, or the nearest of all (then one iteration
            takes a gradient per class).
        steps: number of iterations.
        num_classes: counts the backwards of the untargeted version.
        stop: whether an example is left alone once it is broken within its radius.
    """

    norm: str
    targeted: bool = True
    steps: int = 100
    num_classes: int = 1
    stop: bool = False

    forwards_per_tick = 2
    chunk = 10
    overshoot = 1.05
    pull_back = 0.9
    alpha_max = 0.1

    @property
    def ticks(self) -> int:
        """Iterations of a whole run."""
        return self.steps

    @property
    def backwards_per_tick(self) -> int:
        """Gradients of an iteration."""
        return 1 if self.targeted else self.num_classes

    def begin(self, e: Example, key: jax.Array) -> FABState:
        """The state at the clean image; later restarts of the untargeted version start half a radius away."""
        n = len(e.x)
        start = e.x
        if not self.targeted:
            noise = self._noise(e, key)
            length = threat.norm(noise, self.norm)
            scale = jnp.where(e.trial > 0, 0.5 * e.eps / jnp.maximum(length, 1e-12), 0.0)
            start = jnp.clip(e.x + threat.per_example(scale, e.x) * noise, 0.0, 1.0)
        no = jnp.zeros(n, bool)
        return FABState(jnp.zeros(n, jnp.int32), no, no, e.x, jnp.full(n, jnp.inf), start, no)

    def _noise(self, e: Example, key: jax.Array) -> jax.Array:
        shape = e.x.shape[1:]
        if self.norm == "linf":
            return jax.vmap(lambda k: jax.random.uniform(k, shape, minval=-1.0, maxval=1.0))(e.keys(key))
        return jax.vmap(lambda k: jax.random.normal(k, shape))(e.keys(key))

    def __call__(self, _: int, state: FABState, e: Example, oracle: Oracle, key: jax.Array) -> FABState:
        """One iteration of every example that is not done."""
        x, n = state.x, len(e.x)
        keys = oracle.keys(e, key, state.ticks)
        gap, w = self._boundary(x, e, oracle, keys)
        gap = jnp.where(jnp.isfinite(gap), gap, 0.0)  # no boundary is known there: back towards the clean image

        here, clean, w = x.reshape(n, -1), e.x.reshape(n, -1), w.reshape(n, -1)
        b = jnp.sum(w * here, -1) - gap
        move, move_clean = (move_to_hyperplane(point, w, b, self.norm) for point in (here, clean))
        length, length_clean = (jnp.maximum(threat.norm(m, self.norm), 1e-8) for m in (move, move_clean))
        alpha = jnp.minimum(length / (length + length_clean), self.alpha_max)[:, None]
        moved = (1.0 - alpha) * (here + self.overshoot * move) + alpha * (clean + self.overshoot * move_clean)
        x = jnp.clip(moved, 0.0, 1.0).reshape(e.x.shape)

        # A branch of its own: beside the gradient's forward, XLA's CPU backend would share what the two have in common,
        # every layer's broadcast bias, and write it to memory (a quarter of the time).
        keys = fold(keys, oracle.eot_samples + 1)
        wrong, strange = jax.lax.cond(
            jnp.all(state.done),
            lambda: (jnp.zeros_like(state.done),) * 2,
            lambda: oracle.value("margin", x, e, keys)[1:],
        )
        distance = threat.norm(x - e.x, self.norm)
        nearer = wrong & (distance < state.distance)
        nearest = jnp.where(nearer, distance, state.distance)
        success = nearest <= e.eps
        new = FABState(
            ticks=state.ticks + 1,
            done=(state.ticks + 1 >= self.steps) | (success if self.stop else False),
            success=success,
            x_adv=select(nearer, x, state.x_adv),
            distance=nearest,
            x=select(wrong, e.x + self.pull_back * (x - e.x), x),
            non_finite=state.non_finite | (strange & (distance <= e.eps)),
        )
        return select(state.done, state, new)

    def _boundary(self, x, e: Example, oracle: Oracle, keys) -> tuple[jax.Array, jax.Array]:
        """The linearised boundary at `x`: z_t - z_y [B] and its gradient [B, H, W, C]."""
        if self.targeted:
            found, w = oracle.gradient("margin_targeted", x, e, keys, verdict=False)
            return found.value, w
        logits, rows = oracle.jacobian(x, keys)
        own = jnp.take_along_axis(logits, e.y[:, None], -1)
        gaps = (logits - own).T
        w = rows - rows[e.y, jnp.arange(len(x))]
        flat = w.reshape(-1, *x.shape[1:])
        dual = threat.norm(flat, {"linf": "l1", "l2": "l2", "l1": "linf"}[self.norm]).reshape(gaps.shape)
        ratio = jnp.abs(gaps) / (dual + 1e-12)
        ratio = jnp.where(jnp.arange(len(gaps))[:, None] == e.y, jnp.inf, ratio)
        nearest = jnp.argmin(ratio, 0), jnp.arange(len(x))
        w = w[nearest]
        return gaps[nearest], jnp.where(jnp.isfinite(w), w, 0.0)


class FABResult(NamedTuple):
    """What FAB found.

    Attributes:
        x_adv: the nearest adversarial point of every example, the clean image where there was none, [B, H, W, C].
        success: whether one was found within the radius, [B].
        distance: how far the nearest is in the attack's norm, infinite where there was none, [B].
    """

    x_adv: jax.Array
    success: jax.Array
    distance: jax.Array

    def __repr__(self) -> str:
        return summary(self)


def fab(
    logits_fn: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    norm: str,
    eps: jax.typing.ArrayLike | str | None = None,
    steps: int = 100,
    target: jax.Array | None = None,
    restart: int = 0,
    ids: jax.Array | None = None,
    non_finite: str = "broken",
) -> FABResult:
    """One run of FAB, a minimum-norm attack (Croce and Hein 2020b, algorithm 1); pure, inside `jit` or on its own.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode.
        key: random key, used by later restarts only.
        x: clean images [B, H, W, C], float in [0, 1], correctly classified.
        y: labels [B].
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number, a fraction such as `"8/255"` or one per example [B]: what counts as success (None: any
            distance), and the scale of later restarts' starts. `x_adv` is the nearest point found, whatever the radius.
        steps: number of iterations.
        target: classes [B] whose boundary is looked for; if absent, the nearest boundary of all, with as many
            backwards as classes in each iteration.
        restart: the number of this restart; those after 0 start at random (untargeted version).
        ids: example ids [B]; 0..B-1 if absent.
        non_finite: what logits that are NaN or infinite count as, `"broken"` (adversarial) or `"robust"`.

    Returns:
        `FABResult`; every point lies in [0, 1].

    Raises:
        InputError: bad images, labels, radius or names.
    """
    radius = threat.max_radius(norm, np.shape(x)[1:]) if eps is None else eps
    problem = prepare(logits_fn, key, x, y, norm, radius)
    check_count(steps, "steps", 1)
    check_count(restart, "restart", 0)
    if eps is None and restart:
        raise InputError("a later restart needs eps, the scale of its start")
    attack = FAB(problem.norm, target is not None, steps, problem.num_classes)
    state = run_alone(attack, problem, key, ids, target, restart, non_finite=non_finite)
    return FABResult(state.x_adv, state.success, state.distance)
