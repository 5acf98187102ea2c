"""APGD: projected gradient ascent that finds its own step size (Croce and Hein 2020; for l_1: Croce and Hein 2021)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import threat
from advjax.attacks.engine.batching import run_alone
from advjax.attacks.engine.inputs import check_count, check_target
from advjax.attacks.engine.oracle import LOSSES, Example, Loss, Oracle, loss_for, prepare, select
from advjax.attacks.engine.show import summary
from advjax.errors import InputError, unknown


class APGDState(NamedTuple):
    """One row per example, [B, ...].

    Attributes:
        ticks: evaluations so far, those of starting points included.
        done: whether the run is over.
        success: whether a misclassified point was found (l_1: in the last stage).
        x_adv: the last misclassified point (the first, if the attack stops there); the clean image without one.
        zero_gradient: whether the gradient at the (first) start was zero.
        non_finite: whether logits were NaN or infinite at a point in the ball.
        x, x_prev: the current point and the one before it.
        gradient: at `x`.
        best, best_gradient, best_value: the point of largest loss, the gradient and loss there.
        value: the loss after the last step; 0 before the first.
        step: the step size.
        check, period: the step at which the step size is looked at next, and the number of steps since the last look.
        rises: how many of these raised the loss.
        halved: whether the last look halved the step size.
        best_at_check: the best loss then.
        share: for l_1, the share of coordinates that move.
        sparsity: for l_1, L0(best - clean) at the last look.
    """

    ticks: jax.Array
    done: jax.Array
    success: jax.Array
    x_adv: jax.Array
    zero_gradient: jax.Array
    non_finite: jax.Array
    x: jax.Array
    x_prev: jax.Array
    gradient: jax.Array
    best: jax.Array
    best_gradient: jax.Array
    best_value: jax.Array
    value: jax.Array
    step: jax.Array
    check: jax.Array
    period: jax.Array
    rises: jax.Array
    halved: jax.Array
    best_at_check: jax.Array
    share: jax.Array
    sparsity: jax.Array


def periods(steps: int) -> tuple[int, int, int]:
    """The first number of steps between two looks at the step size, what it shrinks by, and where it stops."""
    return max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)


def checkpoints(steps: int) -> list[int]:
    """The steps at which the step size is looked at, 0 included: 0, 22, 41, 57, 70, 80, 87, 93, 99 for 100."""
    period, less, least = periods(steps)
    points = [0]
    while points[-1] + period <= steps:
        points.append(points[-1] + period)
        period = max(period - less, least)
    return points


def _l0(delta: jax.Array) -> jax.Array:
    return jnp.sum(delta.reshape(len(delta), -1) != 0, -1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class APGD:
    """The attack as a loop body: one call is one evaluation (forward and backward) per example.

    Attributes:
        norm: `"linf"`, `"l2"` or `"l1"`.
        loss: a name of `oracle.LOSSES` or a function `(logits, y) -> [B]`; the success is untargeted whatever the loss.
        steps: number of steps, those of all stages together.
        stop: whether an example is left alone once it is misclassified.
    """

    norm: str
    loss: Loss = "ce"
    steps: int = 100
    stop: bool = False

    backwards_per_tick = 1
    forwards_per_tick = 1
    chunk = 10

    @property
    def stages(self) -> tuple[tuple[float, int], ...]:
        """(multiple of the radius, steps) of every stage; l_1 comes in from three times the radius."""
        if self.norm != "l1":
            return ((1.0, self.steps),)
        early = math.ceil(0.3 * self.steps)
        return ((3.0, early), (2.0, early), (1.0, self.steps - 2 * early))

    @property
    def ticks(self) -> int:
        """Evaluations of a whole run: every stage's start and steps."""
        return sum(steps + 1 for _, steps in self.stages)

    def begin(self, e: Example, key: jax.Array) -> APGDState:
        """The state before the first evaluation; `best` holds the random start."""
        keys, shape = e.keys(key), e.x.shape[1:]
        if self.norm == "linf":
            noise = jax.vmap(lambda k: jax.random.uniform(k, shape, minval=-1.0, maxval=1.0))(keys)
        else:
            noise = jax.vmap(lambda k: jax.random.normal(k, shape))(keys)
        if self.norm == "l1":
            start = e.x + noise
        else:
            unit = noise / (threat.per_example(threat.norm(noise, self.norm), noise) + 1e-12)
            start = jnp.clip(e.x + threat.per_example(e.eps, noise) * unit, 0.0, 1.0)
        number, yes = jnp.zeros(len(e.x)), jnp.zeros(len(e.x), bool)
        count, image = jnp.zeros(len(e.x), jnp.int32), jnp.zeros_like(e.x)
        return APGDState(
            ticks=count, done=yes, success=yes, x_adv=e.x, zero_gradient=yes, non_finite=yes, x=start, x_prev=start,
            gradient=image, best=start, best_gradient=image, best_value=number, value=number, step=number, check=count,
            period=count, rises=count, halved=yes, best_at_check=number, share=number, sparsity=number,
        )  # fmt: skip

    def __call__(self, _: int, state: APGDState, e: Example, oracle: Oracle, key: jax.Array) -> APGDState:
        """Evaluates the next point of every example that is not done."""
        first_ticks = np.cumsum([0] + [steps + 1 for _, steps in self.stages])
        stage = jnp.sum(state.ticks[:, None] >= first_ticks[1:-1], -1)
        step_number = state.ticks - jnp.asarray(first_ticks)[stage]
        starting = step_number == 0
        radius = jnp.asarray([multiple for multiple, _ in self.stages], jnp.float32)[stage] * e.eps
        last_stage = stage == len(self.stages) - 1

        x = self._move(state, e, radius, step_number)
        (value, wrong, strange), gradient = oracle.gradient(self.loss, x, e, oracle.keys(e, key, state.ticks))

        success = wrong & last_stage
        better = starting | (value > state.best_value)
        new = state._replace(
            ticks=state.ticks + 1,
            success=state.success | success,
            x_adv=select(success, x, state.x_adv),
            zero_gradient=jnp.where(state.ticks == 0, threat.norm(gradient, "linf") == 0, state.zero_gradient),
            non_finite=state.non_finite | (strange & last_stage),
            x=x,
            x_prev=select(starting, x, state.x),
            gradient=gradient,
            best=select(better, x, state.best),
            best_gradient=select(better, gradient, state.best_gradient),
            best_value=jnp.where(better, value, state.best_value),
            value=jnp.where(starting, 0.0, value),
            rises=state.rises + (value > state.value),
        )
        adapt = self.adapt_share if self.norm == "l1" else self.adapt_step
        new = select(starting, self._start_stage(new, e, radius, stage), adapt(new, e, radius, step_number, stage))
        new = new._replace(done=(new.ticks >= self.ticks) | (new.success if self.stop else False))
        return select(state.done, state, new)

    def _move(self, state: APGDState, e: Example, radius: jax.Array, step_number: jax.Array) -> jax.Array:
        """The next point: a stage's start (`best`, projected) or a step from `x`."""
        starting = step_number == 0
        x, size = state.x, threat.per_example(state.step, state.x)
        if self.norm == "l1":
            flat = jnp.abs(state.gradient).reshape(len(x), -1)
            d = flat.shape[-1]
            # the entry of this rank, counted from the smallest, is the smallest that moves
            rank = jnp.clip((1.0 - state.share) * d, 0, d - 1).astype(jnp.int32)
            least = threat.per_example(threat.kth_largest(flat, d - rank)[:, 0], x)
            direction = jnp.where(jnp.abs(state.gradient) >= least, jnp.sign(state.gradient), 0.0)
            direction = direction / (threat.per_example(threat.norm(direction, "l1"), x) + 1e-10)
            return threat.project_l1_box(select(starting, state.best, x + size * direction), e.x, radius)
        z = threat.project(x + size * threat.steepest_step(state.gradient, self.norm), e.x, self.norm, e.eps)
        a = threat.per_example(jnp.where(step_number == 1, 1.0, 0.75), x)
        z = threat.project(x + a * (z - x) + (1.0 - a) * (x - state.x_prev), e.x, self.norm, e.eps)
        return select(starting, state.best, z)

    def _start_stage(self, s: APGDState, e: Example, radius: jax.Array, stage: jax.Array) -> APGDState:
        """Step size and counters at a stage's start."""
        ones = jnp.ones_like(s.ticks)
        s = s._replace(rises=0 * ones, halved=ones > 0, best_at_check=s.best_value)
        if self.norm == "l1":
            sparsity = _l0(s.x - e.x)
            share = sparsity / (1.5 * math.prod(e.x.shape[1:]))
            return s._replace(step=radius, check=self._l1_periods[stage], share=share, sparsity=sparsity)
        period = periods(self.steps)[0] * ones
        return s._replace(step=2.0 * radius, check=period, period=period)

    def adapt_step(
        self, s: APGDState, e: Example, radius: jax.Array, step_number: jax.Array, stage: jax.Array
    ) -> APGDState:
        """At a checkpoint: halve the step and return to the best point where progress is poor (l_inf and l_2)."""
        _, less, least = periods(self.steps)
        due = step_number == s.check
        few_rises = s.rises <= 0.75 * s.period
        stuck = ~s.halved & (s.best_value <= s.best_at_check)
        halve = few_rises | stuck
        s = self._return_to_best(s, due & halve)
        period = jnp.where(due, jnp.maximum(s.period - less, least), s.period)
        return s._replace(
            step=jnp.where(due & halve, s.step / 2.0, s.step),
            halved=jnp.where(due, halve, s.halved),
            best_at_check=jnp.where(due, s.best_value, s.best_at_check),
            rises=jnp.where(due, 0, s.rises),
            period=period,
            check=jnp.where(due, s.check + period, s.check),
        )

    def adapt_share(
        self, s: APGDState, e: Example, radius: jax.Array, step_number: jax.Array, stage: jax.Array
    ) -> APGDState:
        """At a checkpoint: the share of moving coordinates follows the best point's sparsity (l_1)."""
        due = step_number == s.check
        sparsity = _l0(s.best - e.x)
        sparser = sparsity < 0.95 * s.sparsity
        step = jnp.where(sparser, radius, jnp.clip(s.step / 1.5, radius / 10.0, radius))
        s = self._return_to_best(s, due & sparser)
        return s._replace(
            step=jnp.where(due, step, s.step),
            share=jnp.where(due, sparsity / (1.5 * math.prod(e.x.shape[1:])), s.share),
            sparsity=jnp.where(due, sparsity, s.sparsity),
            check=jnp.where(due, s.check + self._l1_periods[stage], s.check),
        )

    @property
    def _l1_periods(self) -> jax.Array:
        return jnp.asarray([max(int(0.04 * steps), 1) for _, steps in self.stages], jnp.int32)

    @staticmethod
    def _return_to_best(s: APGDState, where: jax.Array) -> APGDState:
        """`x` and its gradient become the best point's; `x_prev` stays, as in the reference."""
        return s._replace(x=select(where, s.best, s.x), gradient=select(where, s.best_gradient, s.gradient))


class APGDResult(NamedTuple):
    """What APGD found.

    Attributes:
        x_adv: the last misclassified point of every example, the clean image where there was none, [B, H, W, C].
        success: whether there was one, [B].
        best: the point of largest loss, [B, H, W, C].
        loss: the loss there, [B].
    """

    x_adv: jax.Array
    success: jax.Array
    best: jax.Array
    loss: jax.Array

    def __repr__(self) -> str:
        return summary(self)


def apgd(
    logits_fn: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    norm: str,
    eps: jax.typing.ArrayLike | str,
    steps: int = 100,
    objective: Loss = "ce",
    target: jax.Array | None = None,
    ids: jax.Array | None = None,
    non_finite: str = "broken",
) -> APGDResult:
    """One run of Auto-PGD (Croce and Hein 2020, algorithm 1; l_1: Croce and Hein 2021, algorithm 3).

    Pure; inside `jit` or on its own. An example's start depends on `key` and its id only. Nothing stops early:
    `autoattack` is the fast way to count robust images.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode.
        key: random key.
        x: clean images [B, H, W, C], float in [0, 1].
        y: labels [B].
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number, a fraction such as `"8/255"` or one per example [B].
        steps: number of steps; l_1 spends 30, 30 and 40 % of them at 3, 2 and 1 times the radius.
        objective: `"ce"`, `"margin"`, `"probability_margin"`, `"cw"`, `"dlr"`, `"dlr_targeted"`, `"margin_targeted"` or
            a function `(logits, y) -> [B]`, maximised. A DLR loss becomes the margin where the classes are too few for it
            (DLR three, targeted four).
        target: the classes [B] that a targeted objective aims at.
        ids: example ids [B]; 0..B-1 if absent.
        non_finite: what logits that are NaN or infinite count as, `"broken"` (adversarial) or `"robust"`.

    Returns:
        `APGDResult`; every point lies in the ball and in [0, 1].

    Raises:
        InputError: bad images, labels, radius or names; a targeted objective without target.
    """
    problem = prepare(logits_fn, key, x, y, norm, eps)
    if callable(objective):
        check_target(objective, problem.y, len(problem.x), problem.num_classes)
    elif not isinstance(objective, str) or objective not in LOSSES:
        raise unknown("objective (of APGD)", objective, LOSSES)
    elif objective.endswith("targeted") and target is None:
        raise InputError(f"the objective {objective!r} needs target, one class per image")
    check_count(steps, "steps", 1)
    attack = APGD(problem.norm, loss_for(objective, problem.num_classes), steps)
    state = run_alone(attack, problem, key, ids, target, non_finite=non_finite)
    return APGDResult(state.x_adv, state.success, state.best, state.best_value)
