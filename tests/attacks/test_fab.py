"""FAB's projections against a convex solver, and its distances against those of a linear network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from advjax.attacks import fab
from advjax.attacks.fab import move_to_hyperplane
from tests.attacks import toy

KEY = jax.random.key(0)


def solve(p, w, b, norm):
    """The least move by a general solver: linear programs for l_inf and l_1, SLSQP for l_2; None if out of reach."""
    d = len(p)
    bounds = [(-v, 1 - v) for v in p]
    gap = b - w @ p
    reach = np.sum(np.where(w * np.sign(gap) > 0, w * (1 - p), -w * p) * np.sign(gap))
    if reach < abs(gap):
        return None
    if norm == "l2":
        start = np.clip(p + w * gap / (w @ w), 0, 1) - p
        constraint = {"type": "eq", "fun": lambda m: w @ m - gap, "jac": lambda m: w}
        result = optimize.minimize(
            lambda m: m @ m, start, jac=lambda m: 2 * m, bounds=bounds, constraints=constraint, method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        return np.sqrt(result.fun)
    eye = np.eye(d)
    if norm == "linf":
        cost, extra = np.r_[np.zeros(d), 1], np.ones((d, 1))
    else:
        cost, extra = np.r_[np.zeros(d), np.ones(d)], np.eye(d)
    result = optimize.linprog(
        cost,
        A_ub=np.block([[eye, -extra], [-eye, -extra]]),
        b_ub=np.zeros(2 * d),
        A_eq=np.r_[w, np.zeros(len(cost) - d)][None],
        b_eq=[gap],
        bounds=bounds + [(0, None)] * (len(cost) - d),
    )
    return result.fun


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_projection_against_a_convex_solver(norm):
    rng = np.random.default_rng(0)
    n, d = 60, 7
    p = np.clip(rng.uniform(-0.3, 1.3, (n, d)), 0, 1).astype(np.float32)
    w = rng.normal(size=(n, d)).astype(np.float32)
    w[:10, :3] = 0
    w[10:20] = np.round(w[10:20])
    b = ((w * p).sum(-1) + rng.normal(size=n) * np.abs(w).sum(-1) * 0.3).astype(np.float32)
    move = np.asarray(jax.jit(move_to_hyperplane, static_argnums=3)(p, w, b, norm), np.float64)
    assert np.all(p + move >= -1e-6) and np.all(p + move <= 1 + 1e-6)
    lengths = toy.distance(p + move, p, norm)
    reached = 0
    for i in range(n):
        best = solve(p[i].astype(np.float64), w[i].astype(np.float64), float(b[i]), norm)
        if best is None:
            # the corner nearest to the plane
            side = np.sign(b[i] - w[i] @ p[i]) * w[i]
            np.testing.assert_allclose(p[i] + move[i], np.where(side > 0, 1, np.where(side < 0, 0, p[i])), atol=1e-6)
            continue
        reached += 1
        assert w[i] @ (p[i] + move[i]) == pytest.approx(b[i], abs=2e-5)
        assert lengths[i] == pytest.approx(best, abs=2e-5)
    assert 20 < reached < n


def test_a_point_on_the_plane_stays():
    p, w = jnp.full((1, 4), 0.5), jnp.ones((1, 4))
    for norm in ("linf", "l2", "l1"):
        np.testing.assert_array_equal(move_to_hyperplane(p, w, jnp.asarray([2.0]), norm), 0)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_distance_to_a_linear_boundary(norm, dual, targeted):
    rng = np.random.default_rng(1)
    classes, d = 4, 27
    weights = rng.normal(size=(d, classes))
    x = rng.uniform(0.45, 0.55, (6, 3, 3, 3)).astype(np.float32)
    f = toy.linear(weights)
    logits = np.asarray(f(x), np.float64)
    y = np.argmax(logits, -1)
    target = np.argsort(-logits, -1)[:, 1] if targeted else None
    gaps = logits[np.arange(6), y][:, None] - logits
    slopes = np.linalg.norm(weights.T[None] - weights.T[y][:, None], ord=dual, axis=-1)
    distances = np.where(gaps > 0, gaps / np.maximum(slopes, 1e-9), np.inf)
    exact = distances[np.arange(6), target] if targeted else distances.min(-1)
    exact = np.minimum(exact, distances.min(-1) * 1.2) if targeted else exact
    result = fab(f, KEY, x, y.astype(np.int32), norm=norm, eps=1.0, steps=40, target=target)
    found = np.asarray(result.distance)
    assert np.all(found >= distances.min(-1) * (1 - 1e-4))
    assert np.all(found <= distances.min(-1) * 1.35 if targeted else exact * 1.06)
    np.testing.assert_allclose(toy.distance(result.x_adv, x, norm), found, rtol=1e-4)
    assert np.all(np.argmax(f(result.x_adv), -1) != y)
    np.testing.assert_array_equal(result.success, found <= 1.0)


def literal_run(f, x, y, target, norm, steps):
    """FAB-T on one image as its formulas read; -> the least distance and the point there."""
    margin = jax.jit(jax.value_and_grad(lambda z: f(z[None])[0, target] - f(z[None])[0, y]))
    move = jax.jit(lambda point, w, b: move_to_hyperplane(point.reshape(1, -1), w.reshape(1, -1), b[None], norm)[0])
    point, nearest, best = x, np.inf, x
    for _ in range(steps):
        gap, w = map(np.asarray, margin(point))
        b = np.sum(w * point) - gap
        moves = [np.asarray(move(start, w, b)).reshape(x.shape) for start in (point, x)]
        a1, a2 = (max(toy.distance(m[None], 0 * x[None], norm)[0], 1e-8) for m in moves)
        alpha = min(a1 / (a1 + a2), 0.1)
        point = np.clip((1 - alpha) * (point + 1.05 * moves[0]) + alpha * (x + 1.05 * moves[1]), 0, 1)
        point = point.astype(np.float32)
        if np.argmax(f(point[None])) != y:
            distance = toy.distance(point[None], x[None], norm)[0]
            if distance < nearest:
                nearest, best = distance, point
            point = (x + 0.9 * (point - x)).astype(np.float32)
    return nearest, best


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_follows_the_algorithm_step_by_step(norm):
    f, x, y = toy.labelled(3, wrong=0)
    target = np.asarray((y + 3) % 10)
    result = fab(f, KEY, x, y, norm=norm, eps=1.0, steps=7, target=target)
    found = 0
    for i in range(3):
        nearest, best = literal_run(f, x[i], y[i], target[i], norm, 7)
        np.testing.assert_allclose(result.distance[i], nearest, rtol=1e-3)
        np.testing.assert_allclose(result.x_adv[i], best, atol=1e-3)
        found += np.isfinite(nearest)
    assert found >= 2


def test_restarts_start_elsewhere_and_keep_to_the_id():
    f, x, y = toy.labelled(4, wrong=0)
    first, second, again = (
        fab(f, KEY, x[rows], y[rows], norm="l2", eps=0.5, steps=3, restart=restart, ids=np.asarray(rows))
        for rows, restart in (([0, 1, 2, 3], 0), ([0, 1, 2, 3], 1), ([3, 1], 1))
    )
    assert not np.allclose(first.x_adv, second.x_adv, atol=1e-4)
    np.testing.assert_allclose(again.x_adv, second.x_adv[jnp.asarray([3, 1])], atol=1e-5)
