"""Carlini and Wagner's l_2 attack: a small perturbation by Adam, its weight by binary search (2017)."""

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
from advjax.errors import InputError
from advjax.numbers import check_range, number


class CWState(NamedTuple):
    """One row per example, [B, ...].

    Attributes:
        ticks: gradients so far.
        done: whether the run is over.
        success: whether an adversarial point was found.
        x_adv: the nearest of them so far, the clean image without one.
        distance: how far it is in l_2, infinite without one.
        w: the point in the coordinates in which the box is the whole space, x' = (tanh w + 1)/2.
        mean, square: Adam's moments.
        c: the weight of the margin in this round.
        low, high: the largest weight that failed and the smallest that succeeded.
        found: whether this round succeeded.
    """

    ticks: jax.Array
    done: jax.Array
    success: jax.Array
    x_adv: jax.Array
    distance: jax.Array
    w: jax.Array
    mean: jax.Array
    square: jax.Array
    c: jax.Array
    low: jax.Array
    high: jax.Array
    found: jax.Array


@dataclasses.dataclass(frozen=True)
class CWL2:
    """The attack as a loop body: one call is one Adam step per example; every `steps` of them a round ends."""

    steps: int = 1000
    rounds: int = 9
    learning_rate: float = 0.01
    first_c: float = 0.01
    confidence: float = 0.0

    forwards_per_tick = 1
    backwards_per_tick = 1
    chunk = 50

    @property
    def ticks(self) -> int:
        """Gradients of a whole run."""
        return self.steps * self.rounds

    def _first_w(self, x: jax.Array) -> jax.Array:
        return jnp.arctanh((2.0 * x - 1.0) * 0.999999)

    def begin(self, e: Example, key: jax.Array) -> CWState:
        """The state before the first gradient, at the clean image."""
        n, w = len(e.x), self._first_w(e.x)
        no, number, moment = jnp.zeros(n, bool), jnp.zeros(n), jnp.zeros_like(e.x)
        infinite = jnp.full(n, jnp.inf)
        c = jnp.full(n, self.first_c)
        return CWState(jnp.zeros(n, jnp.int32), no, no, e.x, infinite, w, moment, moment, c, number, infinite, no)

    def __call__(self, _: int, state: CWState, e: Example, oracle: Oracle, key: jax.Array) -> CWState:
        """One Adam step on ||x' - x||^2 + c max(z_y - max_{k != y} z_k + confidence, 0)."""
        unit = jnp.tanh(state.w)
        x = (unit + 1.0) / 2.0
        (margin, wrong, strange), ascent = oracle.gradient("margin", x, e, None)

        fooled = wrong & ((margin >= self.confidence) | strange)
        distance = threat.norm(x - e.x, "l2")
        nearer = fooled & (distance < state.distance)

        pushed = jnp.where(margin < self.confidence, state.c, 0.0)
        gradient = (2.0 * (x - e.x) - threat.per_example(pushed, x) * ascent) * (1.0 - unit * unit) / 2.0
        t = threat.per_example((state.ticks % self.steps + 1).astype(jnp.float32), x)
        mean = 0.9 * state.mean + 0.1 * gradient
        square = 0.999 * state.square + 0.001 * gradient**2
        step = mean / (1.0 - 0.9**t) / (jnp.sqrt(square / (1.0 - 0.999**t)) + 1e-8)
        new = state._replace(
            ticks=state.ticks + 1,
            done=state.ticks + 1 >= self.ticks,
            success=state.success | fooled,
            x_adv=select(nearer, x, state.x_adv),
            distance=jnp.where(nearer, distance, state.distance),
            w=state.w - self.learning_rate * step,
            mean=mean,
            square=square,
            found=state.found | fooled,
        )
        new = select(new.ticks % self.steps == 0, self.next_round(new, e), new)
        return select(state.done, state, new)

    def next_round(self, s: CWState, e: Example) -> CWState:
        """A new weight, halfway between failure and success or ten times as large, and a fresh start."""
        high = jnp.where(s.found, jnp.minimum(s.high, s.c), s.high)
        low = jnp.where(s.found, s.low, jnp.maximum(s.low, s.c))
        c = jnp.where(jnp.isfinite(high), (low + high) / 2.0, s.c * 10.0)
        zero = jnp.zeros_like(s.mean)
        return s._replace(
            w=self._first_w(e.x), mean=zero, square=zero, c=c, low=low, high=high, found=jnp.zeros_like(s.found)
        )


class CWResult(NamedTuple):
    """What the attack found.

    Attributes:
        x_adv: the nearest adversarial point of every example, the clean image where there was none, [B, H, W, C].
        success: whether there was one within the radius, [B].
        distance: its l_2 distance, infinite where there was none, [B].
    """

    x_adv: jax.Array
    success: jax.Array
    distance: jax.Array

    def __repr__(self) -> str:
        return summary(self)


def cw_l2(
    logits_fn: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    norm: str = "l2",
    eps: jax.typing.ArrayLike | str | None = None,
    steps: int = 1000,
    rounds: int = 9,
    learning_rate: float = 0.01,
    first_c: float = 0.01,
    confidence: float = 0.0,
    non_finite: str = "broken",
) -> CWResult:
    """Carlini and Wagner's untargeted l_2 attack (2017, section VI), a minimum-norm attack without random numbers.

    Minimises ||x' - x||_2^2 + c max(z_y - max_{k != y} z_k + confidence, 0) over x' = (tanh w + 1)/2 with Adam, and
    looks for the smallest c that succeeds by binary search. Pure; inside `jit` or on its own.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode.
        key: random key; all attacks are called alike, this one draws nothing.
        x: clean images [B, H, W, C], float in [0, 1].
        y: labels [B].
        norm: `"l2"`, the only norm in which this attack is defined (in l_inf: `pgd` with the objective `"cw"`).
        eps: radius, a number, a fraction such as `"128/255"` or one per example [B]: what counts as success (None: any
            distance). `x_adv` is the nearest point found, whatever the radius.
        steps: Adam steps per round.
        rounds: rounds of the binary search.
        learning_rate: Adam's.
        first_c: the weight of the first round.
        confidence: the margin in logits by which a point must be wrong.
        non_finite: what logits that are NaN or infinite count as, `"broken"` (adversarial) or `"robust"`.

    Returns:
        `CWResult`; every point lies in [0, 1].

    Raises:
        InputError: bad images, labels or radius, another norm, no steps.
    """
    if threat.canonical_norm(norm) != "l2":
        raise InputError(f"norm must be l2, it is {norm}: in linf, pgd with objective='cw' is this attack's kin")
    radius = threat.max_radius(norm, np.shape(x)[1:]) if eps is None else eps
    problem = prepare(logits_fn, key, x, y, norm, radius)
    check_count(steps, "steps", 1)
    check_count(rounds, "rounds", 1)
    learning_rate, first_c = number(learning_rate, "learning_rate"), number(first_c, "first_c")
    check_range(learning_rate, "learning_rate")
    check_range(first_c, "first_c")
    attack = CWL2(steps, rounds, learning_rate, first_c, number(confidence, "confidence"))
    state = run_alone(attack, problem, key, non_finite=non_finite)
    return CWResult(state.x_adv, state.success & (state.distance <= problem.eps), state.distance)
