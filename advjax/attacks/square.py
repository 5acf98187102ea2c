"""Square: a random search with square-shaped updates (Andriushchenko et al. 2020; l_1: Croce and Hein 2021).

Unlike the reference implementation, windows and signs are drawn per example, from all positions that fit: there one
window serves the whole batch, and the last row and column are never reached. Images need not be square.
"""

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
from advjax.attacks.engine.oracle import Example, Oracle, prepare, select
from advjax.attacks.engine.show import summary

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def window_share(query: int, queries: int, first: float = 0.8) -> float:
    """The share of the image that a window covers at a query (0-based), halved after 10, 50, 200, ... of them.

    The schedule is made for 10,000 queries. AutoAttack spends 5,000 and walks its first half; any other budget walks
    all of it.
    """
    index = query if queries == 5000 else int(query / queries * 10000)
    return first / 2 ** sum(index > after for after in _HALVED_AFTER)


def window_sides(queries: int, height: int, width: int, norm: str) -> np.ndarray:
    """The side of the window at every query, [queries]."""
    sides = []
    for query in range(queries):
        side = round((window_share(query, queries) * height * width) ** 0.5)
        if norm != "linf":
            side = max(side, 3)
            side += 1 - side % 2
        sides.append(min(max(side, 1), height, width))
    return np.asarray(sides, np.int32)


def _rings(height: int, width: int, norm: str) -> np.ndarray:
    """Concentric squares whose weights fall as 1/j^2 (l_1: 1/j^4), of unit norm."""
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    distance = np.maximum(rows[:, None], columns[None, :])
    power = 2 if norm == "l2" else 4
    reach = np.arange(max(height, width) // 2 + 1)[:, None, None]
    rings = np.sum((distance <= reach) / (reach + 1.0) ** power, 0)
    return rings / _length(rings, norm)


def _length(values: np.ndarray, norm: str) -> float:
    return np.sqrt(np.sum(values**2)) if norm == "l2" else np.sum(np.abs(values))


def pattern(side: int, norm: str) -> np.ndarray:
    """eta: a positive pyramid above a negative one, of unit norm, [side, side] (l_2 and l_1)."""
    upper = side // 2
    parts = [_rings(upper, side, norm)] if upper else []
    eta = np.concatenate([*parts, -_rings(side - upper, side, norm)])
    return (eta / _length(eta, norm)).astype(np.float32)


class SquareState(NamedTuple):
    """One row per example, [B, ...].

    Attributes:
        ticks: queries so far.
        done: whether the run is over.
        success: whether `x` is misclassified.
        x: the best point so far.
        margin: z_y - max_{k != y} z_k there.
        x_adv: `x` once it is misclassified, before that the clean image.
        non_finite: whether logits were NaN or infinite at a point.
    """

    ticks: jax.Array
    done: jax.Array
    success: jax.Array
    x: jax.Array
    margin: jax.Array
    x_adv: jax.Array
    non_finite: jax.Array


@dataclasses.dataclass(frozen=True)
class Square:
    """The attack as a loop body: one call is one query per example, or two; a misclassified example is left alone.

    Under l_inf a window that already has the drawn sign changes nothing. The answer to such a query is known, so the call
    goes on to the next one: with one channel and small windows a third of the queries, with three channels few.

    Attributes:
        norm: `"linf"`, `"l2"` or `"l1"`.
        queries: the budget, the first point aside.
    """

    norm: str
    queries: int = 5000

    forwards_per_tick = 1
    backwards_per_tick = 0
    chunk = 100

    @property
    def ticks(self) -> int:
        """Queries of a whole run, the first point among them; calls may be fewer."""
        return self.queries + 1

    def begin(self, e: Example, key: jax.Array) -> SquareState:
        """The state before the first query; `x` holds the first point."""
        n = len(e.x)
        keys = e.keys(key)
        start = self._stripes(e, keys) if self.norm == "linf" else self._tiles(e, keys)
        no = jnp.zeros(n, bool)
        return SquareState(jnp.zeros(n, jnp.int32), no, no, start, jnp.full(n, jnp.inf), e.x, no)

    def __call__(self, _: int, state: SquareState, e: Example, oracle: Oracle, key: jax.Array) -> SquareState:
        """The next query of every example that is not done."""
        ticks = state.ticks
        x = select(ticks == 0, state.x, self._proposal(state.x, e, key, ticks))
        if self.norm == "linf" and not oracle.stochastic:
            same = jnp.all(x == state.x, (1, 2, 3)) & (ticks > 0) & (ticks + 1 < self.ticks)
            ticks = ticks + same
            x = select(same, self._proposal(state.x, e, key, ticks), x)

        value, wrong, strange = oracle.value("margin", x, e, oracle.keys(e, jax.random.fold_in(key, 1), ticks))
        margin = -value
        better = (margin < state.margin) | (margin <= 0) | wrong
        success = state.success | wrong
        new = SquareState(
            ticks=ticks + 1,
            done=(ticks + 1 >= self.ticks) | success,
            success=success,
            x=select(better, x, state.x),
            margin=jnp.where(better, margin, state.margin),
            x_adv=select(wrong, x, state.x_adv),
            non_finite=state.non_finite | strange,
        )
        return select(state.done, state, new)

    def _proposal(self, x: jax.Array, e: Example, key: jax.Array, ticks: jax.Array) -> jax.Array:
        """The point that the query of this number [B] (1 is the first after the start) makes of the best one."""
        keys = jax.vmap(jax.random.fold_in)(e.keys(key), ticks + 1)
        height, width = x.shape[1:3]
        sides = jnp.asarray(window_sides(self.queries, height, width, self.norm))
        propose = self.flip_window if self.norm == "linf" else self.move_mass
        return propose(x, e, keys, sides[jnp.maximum(ticks - 1, 0)])

    def _stripes(self, e: Example, keys: jax.Array) -> jax.Array:
        """l_inf's first point: every column of every channel all plus or all minus eps."""
        _, width, channels = e.x.shape[1:]
        signs = jax.vmap(lambda k: jax.random.rademacher(k, (1, width, channels), jnp.float32))(keys)
        return jnp.clip(e.x + threat.per_example(e.eps, e.x) * signs, 0.0, 1.0)

    def flip_window(self, x: jax.Array, e: Example, keys: jax.Array, side: jax.Array) -> jax.Array:
        """l_inf: +-2 eps, a sign per channel, on one window of the best point, back into ball and box."""
        height, width, channels = x.shape[1:]

        def draw(key, side):
            where, sign = jax.random.split(key)
            row, column = _corner(where, side, height, width)
            return _inside(row, column, side, height, width) * jax.random.rademacher(sign, (channels,), x.dtype)

        return threat.project(x + 2.0 * threat.per_example(e.eps, x) * jax.vmap(draw)(keys, side), e.x, "linf", e.eps)

    def _tiles(self, e: Example, keys: jax.Array) -> jax.Array:
        """l_2's and l_1's first point: tiles of H//5 pixels, each +-eta per channel, cropped to the image."""
        height, width, channels = e.x.shape[1:]
        side = max(height // 5, 1)
        offset = max((height - 5 * side) // 2, 0)
        eta = jnp.asarray(pattern(side, self.norm))
        row, row_in = np.divmod(np.arange(height) - offset, side)
        column, column_in = np.divmod(np.arange(width) - offset, side)
        counts = height // side, max(width // side, 1)
        inside = ((row >= 0) & (row < counts[0]))[:, None] & ((column >= 0) & (column < counts[1]))[None, :]
        at = np.ix_(np.clip(row, 0, counts[0] - 1), np.clip(column, 0, counts[1] - 1))

        def draw(key):
            flip, sign = jax.random.split(key)
            signs = jax.random.rademacher(sign, (*counts, channels), jnp.float32)[at]
            turned = jax.random.bernoulli(flip, 0.5, counts)[at]
            upright, lying = eta[np.ix_(row_in, column_in)], eta.T[np.ix_(row_in, column_in)]
            return (jnp.where(turned, lying, upright) * inside)[..., None] * signs

        return self._into_ball(jax.vmap(draw)(keys), e, rescale=self.norm == "l2")

    def _into_ball(self, delta: jax.Array, e: Example, rescale: bool) -> jax.Array:
        if rescale:
            unit = delta / (threat.per_example(threat.norm(delta, "l2"), delta) + 1e-12)
            return jnp.clip(e.x + threat.per_example(e.eps, delta) * unit, 0.0, 1.0)
        return threat.project_l1_box(e.x + delta, e.x, e.eps * (1.0 - 1e-6))

    def move_mass(self, x: jax.Array, e: Example, keys: jax.Array, side: jax.Array) -> jax.Array:
        """l_2 and l_1: the perturbation of window 2, and what the budget has left, goes into window 1."""
        height, width, channels = x.shape[1:]
        tables, index = self._tables(height, width)

        def draw(key, side):
            first, second, flip, sign = jax.random.split(key, 4)
            corner = _corner(first, side, height, width)
            here = _inside(*corner, side, height, width)
            there = _inside(*_corner(second, side, height, width), side, height, width)
            which = 2 * index[side] + jax.random.bernoulli(flip).astype(jnp.int32)
            start = (which, height - corner[0], width - corner[1])
            eta = jax.lax.dynamic_slice(tables, start, (1, height, width))[0]
            return here, there, eta[..., None] * jax.random.rademacher(sign, (channels,), x.dtype)

        here, there, eta = jax.vmap(draw)(keys, side)
        delta = x - e.x

        def length(values):
            if self.norm == "l2":
                return jnp.sqrt(jnp.sum(values * values, (1, 2), keepdims=True))
            return jnp.sum(jnp.abs(values), (1, 2), keepdims=True)

        both = length(delta * jnp.maximum(here, there))
        total, eps = threat.per_example(threat.norm(delta, self.norm), x), threat.per_example(e.eps, x)
        if self.norm == "l2":
            amplitude = jnp.sqrt(jnp.maximum(eps * eps - total * total, 0.0) / channels + both * both)
        else:
            amplitude = (jnp.maximum(eps - total, 0.0) / channels + both) * channels
        inner = delta * here
        new = eta + inner / (length(inner) + 1e-12)
        new = new / (length(new) + 1e-12) * amplitude
        delta = jnp.where(here > 0, new, delta * (1.0 - there))
        return self._into_ball(delta, e, rescale=self.norm == "l2")

    def _tables(self, height: int, width: int) -> tuple[jax.Array, jax.Array]:
        """Every pattern in the middle of zeros, upright and lying, and where a side's pair of patterns stands."""
        sides = np.unique(window_sides(self.queries, height, width, self.norm))
        tables = np.zeros((2 * len(sides), 2 * height, 2 * width), np.float32)
        index = np.zeros(max(sides) + 1, np.int32)
        for i, side in enumerate(sides):
            eta = pattern(int(side), self.norm)
            tables[2 * i, height : height + side, width : width + side] = eta
            tables[2 * i + 1, height : height + side, width : width + side] = eta.T
            index[side] = i
        return jnp.asarray(tables), jnp.asarray(index)


def _corner(key: jax.Array, side: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """The upper left corner of a window, uniform over all that fit."""
    row, column = jax.random.split(key)
    return jax.random.randint(row, (), 0, height - side + 1), jax.random.randint(column, (), 0, width - side + 1)


def _inside(row: jax.Array, column: jax.Array, side: jax.Array, height: int, width: int) -> jax.Array:
    """1.0 on the window, [H, W, 1]."""
    rows, columns = jnp.arange(height) - row, jnp.arange(width) - column
    inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))[None, :]
    return inside.astype(jnp.float32)[..., None]


class SquareResult(NamedTuple):
    """What Square found.

    Attributes:
        x_adv: a misclassified point of every example, the clean image where there was none, [B, H, W, C].
        success: whether there was one, [B].
        queries: queries spent, the first point among them; those that could change nothing needed no forward, [B].
        best: the point of least margin, [B, H, W, C].
        margin: z_y - max_{k != y} z_k there, [B].
    """

    x_adv: jax.Array
    success: jax.Array
    queries: jax.Array
    best: jax.Array
    margin: jax.Array

    def __repr__(self) -> str:
        return summary(self)


def square(
    logits_fn: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    norm: str,
    eps: jax.typing.ArrayLike | str,
    queries: int = 5000,
    ids: jax.Array | None = None,
    non_finite: str = "broken",
) -> SquareResult:
    """One run of Square, a black-box attack that sees logits only; pure, inside `jit` or on its own.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode; no gradient is taken.
        key: random key; an example's draws depend on it and on the example's id only.
        x: clean images [B, H, W, C], float in [0, 1], square or not.
        y: labels [B].
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number, a fraction such as `"8/255"` or one per example [B].
        queries: the budget, the first point aside.
        ids: example ids [B]; 0..B-1 if absent.
        non_finite: what logits that are NaN or infinite count as, `"broken"` (adversarial) or `"robust"`.

    Returns:
        `SquareResult`; every point lies in the ball and in [0, 1].

    Raises:
        InputError: bad images, labels, radius or names.
    """
    problem = prepare(logits_fn, key, x, y, norm, eps)
    check_count(queries, "queries", 1)
    state = run_alone(Square(problem.norm, queries), problem, key, ids, non_finite=non_finite)
    return SquareResult(state.x_adv, state.success, state.ticks, state.x, state.margin)
