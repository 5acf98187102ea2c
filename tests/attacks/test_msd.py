"""Multi steepest descent: one step by hand, the choice between norms, the best point seen, single norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import threat
from advjax.attacks.msd import Budget, steepest_descent
from advjax.attacks.pgd import maximize

BUDGETS = {"l1": Budget(12.0, 1.0), "l2": Budget(0.3, 0.2), "linf": Budget(0.03, 0.02)}
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0.2, 0.8, (6, 5, 5, 3)), jnp.float32)
W = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
KEY = jax.random.key(0)


def linear(x_adv, aux):
    """A positive linear objective, and a count of its calls."""
    return 100.0 + jnp.sum(W * (x_adv - X), (1, 2, 3)), aux + 1


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_one_norm_is_its_pgd(norm):
    budgets, settings = {norm: BUDGETS[norm]}, {"steps": 7, "key": KEY}
    ours, calls = steepest_descent(linear, X, X, budgets=budgets, aux=0, **settings)
    budget = budgets[norm]
    theirs, _ = maximize(
        linear, X, X, norm=norm, eps=budget.eps, step_size=budget.step_size, ids=jnp.arange(6), aux=0, **settings
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert calls == 7


def test_one_step_by_hand():
    """Per example, the best of the three candidates, each projected to its own ball."""
    x_adv, calls = steepest_descent(linear, X, X, budgets=BUDGETS, steps=1, key=KEY, aux=0)
    assert calls == 4  # one gradient, three candidates
    g = np.asarray(W, np.float64).reshape(6, -1)
    k = int(jax.random.randint(jax.random.fold_in(KEY, 0), (), 5, 21))
    x = np.asarray(X, np.float64).reshape(6, -1)
    l1 = np.zeros_like(g)
    for row in range(6):
        free = ~(((g[row] > 0) & (x[row] >= 1 - 1 / k)) | ((g[row] < 0) & (x[row] <= 1 / k)))
        largest = np.argsort(np.where(free, -np.abs(g[row]), 0))[:k]
        l1[row, largest] = np.sign(g[row, largest]) / k
    l2 = 0.2 * g / np.linalg.norm(g, axis=1, keepdims=True)
    candidates = [np.clip(x + delta, 0, 1) for delta in (l1, l2, 0.02 * np.sign(g))]
    values = np.stack([(g * (c - x)).sum(1) for c in candidates])
    expected = np.stack(candidates)[values.argmax(0), np.arange(6)]
    np.testing.assert_allclose(np.asarray(x_adv).reshape(6, -1), expected, atol=1e-6)
    assert len(set(values.argmax(0))) == 1  # so the next test is needed


@pytest.mark.parametrize(
    ("budgets", "winner"), [((3.0, 0.1, 0.01), "l1"), ((0.1, 0.9, 0.01), "l2"), ((0.1, 0.1, 0.2), "linf")]
)
def test_the_norm_of_the_largest_objective_wins_and_only_its_ball_counts(budgets, winner):
    budgets = {norm: Budget(eps, eps / 3) for norm, eps in zip(("l1", "l2", "linf"), budgets, strict=True)}
    x_adv, _ = steepest_descent(linear, X, X, budgets=budgets, steps=10, key=KEY, aux=0)
    inside = {norm: threat.norm(x_adv - X, norm) <= budget.eps * (1 + 1e-5) for norm, budget in budgets.items()}
    assert inside[winner].all()
    assert not any(inside[norm].any() for norm in budgets if norm != winner)
    assert (x_adv >= 0).all() and (x_adv <= 1).all()


def test_equals_go_to_the_later_norm():
    def flat(x_adv, aux):
        """The same value everywhere, with the gradient W."""
        slope = jnp.sum(W * (x_adv - jax.lax.stop_gradient(x_adv)), (1, 2, 3))
        return 1.0 + slope, aux

    order = {"l2": BUDGETS["l2"], "linf": BUDGETS["linf"]}
    x_adv, _ = steepest_descent(flat, X, X, budgets=order, steps=1, key=KEY)
    np.testing.assert_allclose(x_adv, X + 0.02 * jnp.sign(W), atol=1e-6)
    x_adv, _ = steepest_descent(flat, X, X, budgets=dict(reversed(order.items())), steps=1, key=KEY)
    np.testing.assert_allclose(threat.norm(x_adv - X, "l2"), 0.2, atol=1e-6)


def test_the_best_point_seen_is_returned():
    def peaked(x_adv, aux):
        """The gradient W everywhere, the largest value at a distance of 0.12."""
        slope = jnp.sum(W * (x_adv - jax.lax.stop_gradient(x_adv)), (1, 2, 3))
        return jax.lax.stop_gradient(2.0 - (threat.norm(x_adv - X, "l2") - 0.12) ** 2) + slope, aux

    budgets = {"linf": Budget(1e-5, 1e-5), "l2": Budget(0.3, 0.05)}
    for steps, distance in ((1, 0.05), (2, 0.1), (3, 0.1), (4, 0.1)):
        x_adv, _ = steepest_descent(peaked, X, X, budgets=budgets, steps=steps, key=KEY)
        np.testing.assert_allclose(threat.norm(x_adv - X, "l2"), distance, rtol=1e-4)


def test_an_l1_step_leaves_out_what_cannot_move():
    x = jnp.asarray([0.0, 1.0, 0.03, 0.97, 0.03, 0.97, *[0.5] * 19]).reshape(1, 5, 5, 1)
    g = jnp.asarray([9.0, -9.0, -8.0, 8.0, 7.0, -7.0, *np.linspace(1, 0.1, 19)]).reshape(1, 5, 5, 1)

    def objective(x_adv, aux):
        return 10.0 + jnp.sum(g * x_adv, (1, 2, 3)), aux

    x_adv, _ = steepest_descent(objective, x, x, budgets={"l1": Budget(12.0, 1.0)}, steps=1, key=KEY, gap=0.05)
    moved = np.asarray(x_adv != x).ravel()
    k = int(jax.random.randint(jax.random.fold_in(KEY, 0), (), 5, 21))
    # On a bound, whatever the gradient; within the gap of the bound that it points at; away from a bound is free.
    assert not moved[:4].any()
    assert moved[4:6].all()
    assert moved.sum() == k
    np.testing.assert_allclose(threat.norm(x_adv - x, "l1"), 1.0, rtol=1e-5)
