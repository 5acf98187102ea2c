"""Multi steepest descent (Maini et al. 2020): one PGD over a union of norms, and its single-norm PGD."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advjax import threat
from advjax.attacks.engine.loops import as_partial, repeat


class Budget(NamedTuple):
    """One norm's radius and step length."""

    eps: jax.typing.ArrayLike
    step_size: jax.typing.ArrayLike


@dataclasses.dataclass(frozen=True)
class SteepestStep:
    """One step from x' to the best of one candidate per norm, as a hashable loop body.

    Attributes:
        norms: in the order in which candidates are scored.
        gap: of the l_1 step; None: 1/k.
    """

    norms: tuple[str, ...]
    gap: float | None

    def __call__(self, i, carry, objective, x, budgets, key):
        x_adv, best, best_value, aux = carry

        def total(x_adv):
            values, new_aux = objective(x_adv, aux)
            return jnp.sum(values), new_aux

        gradient, aux = jax.grad(total, has_aux=True)(x_adv)
        k = jax.random.randint(jax.random.fold_in(key, i), (), 5, 21)
        candidates = [self._candidate(norm, x_adv, gradient, x, budgets[norm], k) for norm in self.norms]
        if len(candidates) == 1:
            return candidates[0], candidates[0], best_value, aux
        chosen, value = x_adv, jnp.full(len(x), -jnp.inf)
        for candidate in candidates:
            values, aux = objective(candidate, aux)
            chosen = _where(values >= value, candidate, chosen)
            value = jnp.maximum(value, values)
        return chosen, _where(value > best_value, chosen, best), jnp.maximum(value, best_value), aux

    def _candidate(self, norm, x_adv, gradient, x, budget, k):
        if norm == "l1":
            gradient = jnp.where((x_adv <= 0.0) | (x_adv >= 1.0), 0.0, gradient)
            gap = 1.0 / k if self.gap is None else self.gap
            direction = threat.steepest_step(gradient, "l1", x=x_adv, k=k, gap=gap)
        else:
            direction = threat.steepest_step(gradient, norm)
        return threat.project(x_adv + budget.step_size * direction, x, norm, budget.eps)


def _where(condition: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.where(condition.reshape(-1, *[1] * (one.ndim - 1)), one, other)


def steepest_descent(
    objective: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    x: jax.Array,
    start: jax.Array,
    *,
    budgets: Mapping[str, Budget],
    steps: int,
    key: jax.Array,
    gap: float | None = None,
    aux: Any = (),
) -> tuple[jax.Array, Any]:
    """MSD. Every step forms each norm's candidate from the same point, projects it to the norm's own ball and the box,
    and goes on, per example, from the candidate of the largest objective, the later norm of equals.

    An l_1 step moves k coordinates by 1/k of its length each, k drawn once per step from 5..20, and none that lies on a
    bound or within `gap` of the bound that its gradient points at.

    Args:
        objective: `(x', aux) -> ([B], aux)`, positive, maximised per example; see `advjax.attacks.pgd.maximize`.
        x: clean images [B, H, W, C] in [0, 1].
        start: where the first gradient is taken, [B, H, W, C].
        budgets: norm -> radius and step length, in the order of scoring. With one norm nothing is scored: this is the
            PGD of that norm.
        steps: number of gradients.
        key: draws k.
        gap: see above; None: 1/k.
        aux: what the objective carries along.

    Returns:
        Images [B, H, W, C], of all points visited those of the largest objective (the last ones with one norm), and
        the last aux.
    """
    body = SteepestStep(tuple(budgets), gap)
    carry = (start, start, jnp.zeros(len(x)), aux)
    _, best, _, aux = repeat(body, steps, carry, as_partial(objective), x, dict(budgets), key)
    return jax.lax.stop_gradient((best, aux))
