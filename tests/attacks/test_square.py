"""Square: its windows, its schedule, its bounds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses, threat
from advjax.attacks import square
from advjax.attacks.engine.oracle import Example, Oracle
from advjax.attacks.square import Square, _corner, _inside, pattern, window_share, window_sides
from tests.attacks import toy

KEY = jax.random.key(0)
EPS = {"linf": 0.1, "l2": 0.7, "l1": 3.0}


def test_schedule():
    shares = [window_share(q, 5000) for q in (0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 4999)]
    assert shares == [0.8, 0.8, 0.4, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.00625]
    # 100 queries walk the whole schedule of 10,000
    assert window_share(1, 100) == 0.8 / 4 and window_share(99, 100) == 0.8 / 512
    sides = window_sides(5000, 28, 28, "linf")
    assert sides[0] == 25 and sides[11] == 18 and sides[4999] == 2
    assert set(window_sides(5000, 28, 28, "l2")) == {25, 19, 13, 9, 7, 5, 3}
    assert window_sides(5000, 4, 9, "linf").max() == 4


def test_every_position_is_drawn_and_every_pixel_touched():
    height, width, side = 5, 7, 3
    keys = jax.random.split(KEY, 2000)
    rows, columns = jax.vmap(lambda k: _corner(k, jnp.asarray(side), height, width))(keys)
    corners = set(zip(np.asarray(rows).tolist(), np.asarray(columns).tolist(), strict=True))
    assert corners == {(r, c) for r in range(height - side + 1) for c in range(width - side + 1)}
    windows = jax.vmap(lambda r, c: _inside(r, c, jnp.asarray(side), height, width))(rows, columns)
    assert np.all(np.sum(windows, (1, 2, 3)) == side * side)
    assert np.all(np.max(windows, 0) == 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_query_reaches_the_last_row_and_column(norm):
    n, shape = 1500, (9, 12, 2)
    x = np.full((n, *shape), 0.5, np.float32)
    attack = Square(norm, 5000)
    zeros = np.zeros(n, np.int32)
    eps, ids = np.full(n, EPS[norm], np.float32), np.arange(n, dtype=np.int32)
    e = Example(*map(jnp.asarray, (x, zeros, eps, ids, zeros, zeros)))
    start = jax.jit(attack.begin)(e, KEY).x
    propose = attack.flip_window if norm == "linf" else attack.move_mass
    new = jax.jit(lambda start: propose(start, e, e.keys(KEY), jnp.full(n, 3)))(start)
    touched = np.any(np.abs(np.asarray(new - start)) > 1e-6, (0, 3))
    assert touched.all()
    windows = np.any(np.abs(np.asarray(new - start)) > 1e-6, 3)
    assert len(np.unique(windows, axis=0)) > 20


def test_only_better_points_are_kept():
    f, x, y = toy.labelled(6, wrong=0)
    attack, n = Square("linf", 60), 6
    e = Example(*map(jnp.asarray, (x, y, np.full(n, 0.04, np.float32), np.arange(n), np.zeros(n, np.int32), y)))
    step = jax.jit(lambda state: attack(0, state, e, Oracle(jax.tree_util.Partial(f)), KEY))
    states = [attack.begin(e, KEY)]
    for _ in range(60):
        states.append(jax.device_get(step(states[-1])))
    kept = 0
    for before, after in itertools.pairwise(states[1:]):
        moved = np.any(after.x != before.x, (1, 2, 3))
        better = (after.margin < before.margin) | (after.margin <= 0)
        assert np.all(better[moved]) and np.all(after.margin[~moved] == before.margin[~moved])
        kept += moved.sum()
    assert kept > 10
    points = np.stack([state.x for state in states[1:]])
    margins = -losses.margin(f(points.reshape(-1, *x.shape[1:])), np.tile(y, 60)).reshape(60, n)
    np.testing.assert_allclose(margins, [state.margin for state in states[1:]], atol=1e-4)


def test_queries_that_change_nothing_are_passed_over_and_the_rest_is_as_without():
    n, queries = 5, 400
    weights = jax.random.normal(KEY, (36, 3))
    f = jax.tree_util.Partial(lambda x, key=None: jnp.tanh(x.reshape(-1, 36) @ weights))
    x = jax.random.uniform(jax.random.key(1), (n, 6, 6, 1))
    y = jnp.argmax(f(x), -1)
    eps, zeros = jnp.full(n, 0.02), jnp.zeros(n, jnp.int32)
    e, attack = Example(x, y, eps, jnp.arange(n), zeros, y), Square("linf", queries)

    def run(oracle):
        step = jax.jit(lambda state: attack(0, state, e, oracle, KEY))
        state, calls = attack.begin(e, KEY), 0
        while not state.done.all():
            state, calls = step(state), calls + 1
        return state, calls

    # A randomised network is asked every time.
    (passed, fewer), (asked, calls) = run(Oracle(f)), run(Oracle(f, stochastic=True))
    assert calls == queries + 1 and fewer < 0.85 * calls
    assert not passed.success.any() and np.all(passed.ticks == queries + 1)
    jax.tree.map(np.testing.assert_array_equal, passed._replace(margin=0), asked._replace(margin=0))
    np.testing.assert_allclose(passed.margin, asked.margin, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_mass_moves_as_the_formula_says(norm):
    """Window 1 takes its own direction plus eta, scaled to what both windows and the unused budget hold."""
    n, shape, side = 4, (9, 12, 2), 3
    rng = np.random.default_rng(0)
    x = np.full((n, *shape), 0.5, np.float32)
    eps, ids, zeros = np.full(n, EPS[norm], np.float32), np.arange(n), np.zeros(n, np.int32)
    e = Example(*map(jnp.asarray, (x, zeros, eps, ids, zeros, zeros)))
    attack, order = Square(norm, 5000), {"l2": 2, "l1": 1}[norm]
    delta = rng.normal(size=x.shape).astype(np.float32)
    delta *= (0.7 * eps / np.linalg.norm(delta.reshape(n, -1), order, axis=-1))[:, None, None, None]
    keys = e.keys(KEY)
    moved = np.asarray(jax.jit(attack.move_mass)(x + delta, e, keys, jnp.full(n, side)) - x)

    def length(values):
        return np.linalg.norm(values.reshape(-1), order)

    for i in range(n):
        first, second, flip, sign = jax.random.split(keys[i], 4)
        (r1, c1), (r2, c2) = (_corner(k, jnp.asarray(side), *shape[:2]) for k in (first, second))
        one, two = (np.s_[int(r) : int(r) + side, int(c) : int(c) + side] for r, c in ((r1, c1), (r2, c2)))
        both = np.zeros(shape[:2], bool)
        both[one] = both[two] = True
        eta = pattern(side, norm)
        eta = eta.T if jax.random.bernoulli(flip) else eta
        signs = np.asarray(jax.random.rademacher(sign, (2,), jnp.float32))
        new = delta[i].copy()
        new[two] = 0
        for c in range(2):
            v = signs[c] * eta + delta[i][one][..., c] / length(delta[i][one][..., c])
            held = length(delta[i][both][..., c])
            if norm == "l2":
                size = np.sqrt(max(eps[i] ** 2 - length(delta[i]) ** 2, 0) / 2 + held**2)
            else:
                size = (max(eps[i] - length(delta[i]), 0) / 2 + held) * 2
            new[one][..., c] = v / length(v) * size
        if norm == "l2":
            new = np.clip(new / length(new) * eps[i], -0.5, 0.5)
        else:
            new = np.asarray(threat.project_l1_box(x[i : i + 1] + new[None], x[i : i + 1], eps[i])[0]) - 0.5
        np.testing.assert_allclose(moved[i], new, atol=2e-5)


def test_patterns():
    for norm, power in (("l2", 2), ("l1", 1)):
        for side in (1, 3, 5):
            eta = pattern(side, norm)
            assert np.sum(np.abs(eta) ** power) == pytest.approx(1)
            assert np.all(eta[: side // 2] > 0) and np.all(eta[side // 2 :] < 0)
    # 2 rows x 5 columns about (1, 2), weights 1 + 1/4 + 1/9 in the middle, 1/4 + 1/9 around it, 1/9 outside
    upper = pattern(5, "l2")[:2]
    np.testing.assert_allclose(upper / upper[0, 0], np.asarray([[4, 13, 13, 13, 4], [4, 13, 49, 13, 4]]) / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [("l2", (8, 8, 1)), ("l2", (1, 1, 3)), ("l1", (5, 7, 3)), ("l1", (1, 1, 3)), ("linf", (7, 3, 2))],
)
def test_any_shape_stays_inside(norm, shape):
    x = toy.images(6, shape=shape)
    d = int(np.prod(shape))
    eps = {"linf": 0.1, "l2": 0.3 * d**0.5 / 2, "l1": d / 8}[norm]
    f = toy.linear(np.random.default_rng(0).normal(size=(d, 3)) / d)
    y = np.argmax(f(x), -1).astype(np.int32)
    result = square(f, KEY, x, y, norm=norm, eps=eps, queries=12)
    toy.check_inside(result.best, x, norm, eps)
    toy.check_inside(result.x_adv, x, norm, eps)
    np.testing.assert_array_equal(result.success, np.argmax(f(result.x_adv), -1) != y)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_margin_falls_and_examples_are_independent(norm):
    f, x, y = toy.labelled(8, wrong=0)
    ids = np.arange(8) + 5
    long = square(f, KEY, x, y, norm=norm, eps=EPS[norm], queries=300, ids=ids)
    logits = np.array(f(x))
    own = logits[np.arange(8), y]
    logits[np.arange(8), y] = -np.inf
    assert np.all(long.margin <= own - logits.max(-1))
    rows = np.asarray([6, 3])
    part = square(f, KEY, x[rows], y[rows], norm=norm, eps=EPS[norm], queries=300, ids=ids[rows])
    np.testing.assert_allclose(part.margin, long.margin[rows], atol=1e-4)
    np.testing.assert_array_equal(part.queries, long.queries[rows])
    assert np.all(np.asarray(long.queries)[np.asarray(long.success)] <= 301)


def test_finds_the_optimum_of_a_linear_network_in_linf():
    """One channel per pixel column: the best l_inf point has every sign right, and Square gets near it."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 2))
    x = rng.uniform(0.4, 0.6, (4, 4, 4, 1)).astype(np.float32)
    f, y = toy.linear(weights), np.zeros(4, np.int32)
    w = weights[:, 1] - weights[:, 0]
    # a bias keeps the label right, so that the search does not stop early
    f_safe = lambda x: f(x) + jnp.asarray([100.0, 0.0])  # noqa: E731
    result = square(f_safe, KEY, x, y, norm="linf", eps=0.1, queries=600)
    optimum = 0.1 * np.abs(w).sum()
    gained = (np.asarray(result.best) - x).reshape(4, -1) @ w
    assert np.all(gained > 0.99 * optimum)
