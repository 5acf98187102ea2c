"""PGD: optimal on a linear network, in ball and box, indifferent to batches, the same in every mode of calling."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, losses, models, threat
from advjax.attacks import pgd
from advjax.attacks.engine.loops import repeat
from advjax.errors import InputError

SHAPE, N, K = (4, 4, 1), 6, 3
WEIGHTS = jax.random.normal(jax.random.key(0), (16, K))
X = 0.3 + 0.4 * jax.random.uniform(jax.random.key(1), (N, *SHAPE))
Y = jnp.arange(N) % K
KEY = jax.random.key(2)


def linear(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def wavy(x):
    """Not linear, so that starts and steps matter."""
    return jnp.sin(4 * x.reshape(len(x), -1)) @ WEIGHTS


def two_classes(x):
    return linear(x)[:, :2]


@pytest.mark.parametrize(("norm", "eps", "dual"), [("linf", 0.1, 1), ("l2", 0.3, 2), ("l1", 0.25, np.inf)])
def test_attains_the_optimum_of_a_linear_network(norm, eps, dual):
    """With two classes the margin is linear: the most it can rise is eps times the dual norm of its gradient."""
    y = Y % 2
    x_adv = attacks.pgd(
        two_classes, KEY, X, y, norm=norm, eps=eps, step_size=eps / 2, steps=60, objective="margin", start="none"
    )
    rise = losses.margin(two_classes(x_adv), y) - losses.margin(two_classes(X), y)
    gradient = np.asarray(WEIGHTS[:, 1] - WEIGHTS[:, 0], np.float64)
    np.testing.assert_allclose(rise, eps * np.linalg.norm(gradient, dual), rtol=2e-3)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 1.0), ("l1", 3.0)])
@pytest.mark.parametrize("start", threat.STARTS)
def test_stays_in_ball_and_box(norm, eps, start):
    x = jnp.round(X * 4) / 4
    x_adv = attacks.pgd(wavy, KEY, x, Y, norm=norm, eps=eps, step_size=eps / 3, steps=4, start=start)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    delta = np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    assert (np.linalg.norm(delta.reshape(N, -1), order, axis=-1) <= eps * (1 + 1e-5)).all()


def settings(**changes):
    return {"norm": "linf", "eps": 0.1, "step_size": 0.03, "steps": 5, **changes}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_example_does_not_notice_its_batch(norm):
    ids = jnp.array([7, 3, 99, 0, 12, 5])
    eps = {"linf": 0.1, "l2": 0.4, "l1": 1.0}[norm]
    options = settings(norm=norm, eps=eps, step_size=eps / 3)
    together = attacks.pgd(wavy, KEY, X, Y, ids=ids, **options)
    order = jnp.array([4, 2, 0])
    some = attacks.pgd(wavy, KEY, X[order], Y[order], ids=ids[order], **options)
    alone = attacks.pgd(wavy, KEY, X[2:3], Y[2:3], ids=ids[2:3], **options)
    np.testing.assert_allclose(some, together[order], atol=1e-6)
    np.testing.assert_allclose(alone, together[2:3], atol=1e-6)
    other = attacks.pgd(wavy, KEY, X, Y, ids=ids + 1, **options)
    assert not jnp.allclose(other, together)


def test_the_same_inside_and_outside_of_jit():
    options = settings(restarts=2)
    eager = attacks.pgd(wavy, KEY, X, Y, **options)
    jitted = jax.jit(lambda key, x, y: attacks.pgd(wavy, key, x, y, **options))(KEY, X, Y)
    np.testing.assert_allclose(jitted, eager, atol=1e-6)
    constant = jax.jit(lambda key: attacks.pgd(wavy, key, X, Y, **options))(KEY)
    np.testing.assert_allclose(constant, eager, atol=1e-6)


def test_vmap_over_epsilons_and_one_per_example():
    radii = jnp.array([0.0, 0.05, 0.1])
    curve = jax.vmap(lambda eps: attacks.pgd(wavy, KEY, X, Y, **settings(eps=eps, start="none")))(radii)
    for eps, x_adv in zip(radii, curve, strict=True):
        np.testing.assert_allclose(x_adv, attacks.pgd(wavy, KEY, X, Y, **settings(eps=eps, start="none")), atol=1e-6)
    np.testing.assert_array_equal(curve[0], X)
    mixed = attacks.pgd(wavy, KEY, X, Y, **settings(eps=jnp.tile(radii, 2), start="none"))
    np.testing.assert_allclose(mixed, jnp.stack([curve[i % 3, i] for i in range(N)]), atol=1e-6)


def test_restarts_keep_the_best_of_their_runs():
    """Of every run: misclassified before not, then the larger loss. The runs by hand, each with its own start."""
    options = settings(steps=2, step_size=0.01)
    best = attacks.pgd(wavy, KEY, X, Y, restarts=4, **options)
    runs = []
    for restart in range(4):
        key = jax.random.fold_in(KEY, restart)
        start = threat.random_start(key, X, jnp.arange(N), "linf", 0.1)
        objective = attacks.objective_of(wavy, Y, "ce")
        runs.append(attacks.maximize(objective, X, start, key=key, ids=jnp.arange(N), **options)[0])
    fooled = np.stack([1 - losses.correct(wavy(x_adv), Y) for x_adv in runs])
    loss = np.stack([losses.cross_entropy(wavy(x_adv), Y) for x_adv in runs])
    chosen = np.argmax(1000 * fooled + loss, 0)
    assert len(set(chosen)) > 1  # no run is the best for all
    np.testing.assert_allclose(best, jnp.stack(runs)[chosen, jnp.arange(N)], atol=1e-6)


def test_restarts_prefer_proof_to_logits_that_are_not_finite_to_none():
    """So that an image with a proof is broken however the others are counted, and one with neither stays robust."""

    def fragile(x):
        return jnp.where(x[:, :1, 0, 0] > 0.6, jnp.nan, linear(x))

    def rank(x_adv):
        logits = fragile(x_adv)
        return jnp.where(jnp.isfinite(logits).all(-1), 2 * (jnp.argmax(logits, -1) != Y), 1)

    options = settings(eps=0.3, steps=0)
    starts = [threat.random_start(jax.random.fold_in(KEY, i), X, jnp.arange(N), "linf", 0.3) for i in range(6)]
    ranks = np.stack([rank(x_adv) for x_adv in starts])
    assert set(ranks.ravel()) == {0, 1, 2} and len(set(ranks.max(0))) > 1
    best = attacks.pgd(fragile, KEY, X, Y, restarts=6, **options)
    np.testing.assert_array_equal(rank(best), ranks.max(0))


def test_fractions_lists_and_numpy_arrays_are_what_they_say():
    options = settings(eps=8 / 255, step_size=2 / 255)
    expected = attacks.pgd(wavy, KEY, X, Y, **options)
    same = attacks.pgd(wavy, KEY, np.asarray(X), list(map(int, Y)), **{**options, "eps": "8/255", "step_size": "2/255"})
    np.testing.assert_array_equal(same, expected)
    radii = [8 / 255] * N
    lists = attacks.pgd(wavy, KEY, np.asarray(X).tolist(), np.asarray(Y), **{**options, "eps": radii})
    np.testing.assert_allclose(lists, expected, atol=1e-6)


def test_fgsm_and_mi_fgsm_by_hand():
    """One signed gradient; a momentum of gradients of unit l_1 norm, stepped eps/steps at a time."""

    def gradient(x):
        return jax.grad(lambda x: losses.cross_entropy(wavy(x), Y).sum())(x)

    once = attacks.fgsm(wavy, KEY, X, Y, eps="8/255")
    np.testing.assert_allclose(once, jnp.clip(X + 8 / 255 * jnp.sign(gradient(X)), 0, 1), atol=1e-6)
    x, momentum = X, 0.0
    for _ in range(3):
        g = gradient(x)
        momentum = 0.7 * momentum + g / jnp.sum(jnp.abs(g), (1, 2, 3), keepdims=True)
        x = jnp.clip(jnp.clip(x + 0.1 * jnp.sign(momentum), X - 0.3, X + 0.3), 0, 1)
    options = {"eps": 0.3, "steps": 3}
    np.testing.assert_allclose(attacks.mi_fgsm(wavy, KEY, X, Y, decay=0.7, **options), x, atol=1e-6)
    plain = attacks.pgd(wavy, KEY, X, Y, step_size=0.1, start="none", **options)
    np.testing.assert_allclose(attacks.mi_fgsm(wavy, KEY, X, Y, decay=0.0, **options), plain, atol=1e-6)
    assert not np.allclose(x, plain)


@pytest.mark.parametrize("objective", ["ce", "margin"])
def test_targeted_attacks_go_where_they_are_told(objective):
    goal = jnp.argmin(wavy(X), -1)
    options = settings(eps=0.3, step_size=0.05, steps=10, objective=objective, targeted=True)
    reached = [attacks.pgd(wavy, KEY, X, goal, **options, **more) for more in ({}, {"restarts": 2}, {"freeze": True})]
    for x_adv in reached:
        assert losses.correct(wavy(x_adv), goal).mean() > 0.8
    assert (losses.correct(wavy(reached[1]), goal) >= losses.correct(wavy(reached[0]), goal)).all()
    done = jnp.argmax(wavy(X), -1)  # reached already, so that nothing moves
    still = attacks.pgd(wavy, KEY, X, done, **{**options, "start": "none"}, freeze=True)
    np.testing.assert_array_equal(still, X)


def test_kl_objective_moves_away_from_given_probabilities():
    p = jax.nn.softmax(wavy(X))
    x_adv = attacks.pgd(wavy, KEY, X, p, objective="kl", **settings())
    start = threat.random_start(jax.random.fold_in(KEY, 0), X, jnp.arange(N), "linf", 0.1)
    assert (losses.kl_probabilities(p, wavy(x_adv)) > losses.kl_probabilities(p, wavy(start))).all()


def test_frozen_examples_stop_once_they_are_misclassified():
    wrong = jnp.argmin(wavy(X), -1)  # misclassified from the start
    x_adv = attacks.pgd(wavy, KEY, X, wrong, freeze=True, **settings(start="none"))
    np.testing.assert_array_equal(x_adv, X)
    right = jnp.argmax(wavy(X), -1)
    assert not jnp.allclose(attacks.pgd(wavy, KEY, X, right, freeze=True, **settings(start="none")), X)


def test_no_steps_and_no_start_returns_the_images():
    np.testing.assert_array_equal(attacks.pgd(wavy, KEY, X, Y, **settings(steps=0, start="none")), X)
    np.testing.assert_array_equal(attacks.pgd(wavy, KEY, X, Y, **settings(eps=0.0)), X)


def test_new_parameters_and_radii_compile_nothing_anew():
    module = models.create("tiny_cnn", 10)
    x, y = jnp.full((2, 8, 8, 1), 0.5), jnp.array([0, 1])
    traces = []

    class Counted:
        def __call__(self, variables, x):
            traces.append(1)
            return module.apply(variables, x)

    function = Counted()
    for seed, eps in ((0, 0.1), (1, 0.2)):
        variables = models.init(module, jax.random.key(seed), (8, 8, 1))
        attacks.pgd(jax.tree_util.Partial(function, variables), KEY, x, y, **settings(eps=eps))
    first = len(traces)
    attacks.pgd(jax.tree_util.Partial(function, variables), KEY, x, y, **settings(eps=0.3, steps=9))
    assert len(traces) == first


def test_maximize_carries_what_the_objective_returns():
    """GAIRAT's count: at how many of the points where a gradient is taken the image was classified correctly."""

    def objective(x_adv, count):
        logits = wavy(x_adv)
        return losses.cross_entropy(logits, Y), count + losses.correct(logits, Y)

    options = {"norm": "linf", "eps": 0.1, "step_size": 0.02, "key": KEY, "ids": jnp.arange(N)}
    x_adv, count = attacks.maximize(objective, X, X, steps=4, aux=jnp.zeros(N), **options)
    x, expected = X, np.zeros(N)
    for _ in range(4):
        expected += np.asarray(losses.correct(wavy(x), Y))
        x = attacks.maximize(objective, X, x, steps=1, aux=jnp.zeros(N), **options)[0]
    np.testing.assert_array_equal(count, expected)
    np.testing.assert_allclose(x_adv, x, atol=1e-6)


def add_index(i, total, step):
    return total + i * step


def test_repeat_is_a_loop_in_every_mode():
    assert repeat(add_index, 5, jnp.zeros(()), 2.0) == 20
    assert jax.jit(lambda step: repeat(add_index, 5, jnp.zeros(()), step))(2.0) == 20
    np.testing.assert_array_equal(
        jax.vmap(lambda step: repeat(add_index, 5, jnp.zeros(()), step))(jnp.array([1.0, 2.0])), [10, 20]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X * 255}, r"x must lie in \[0, 1\]"),
        ({"x": X.at[0].set(jnp.nan)}, r"x must lie in \[0, 1\]"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": -0.1}, "eps must be between 0 and 1"),
        ({"norm": "l2", "eps": 5.0}, "between 0 and 4 for l2"),
        ({"eps": jnp.full(3, 0.1)}, "eps must be a number or one per image"),
        ({"y": Y[:2]}, "same length"),
        ({"steps": -1}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"objective": "entropy"}, "objective must be an objective"),
        ({"start": "randn"}, "unknown start"),
        ({"norm": "l3"}, "unknown norm"),
        ({"ids": jnp.arange(3)}, "ids must be one per image"),
        ({"x": X[0, 0, 0]}, "batch of images"),
        ({"y": Y + 1}, "labels in 0..2"),
        ({"y": Y - 1}, "labels in 0..2"),
        ({"y": Y / 2}, "integer labels"),
        ({"logits_fn": lambda x: linear(x)[:, :1]}, "at least two classes"),
        ({"logits_fn": lambda x: linear(x)[0]}, r"logits \[B, K\]"),
        ({"logits_fn": lambda x: linear(x).astype(int)}, "logits in floating point, it gives int32"),
        ({"logits_fn": lambda x: linear(x.reshape(N, 16))}, "in batches of any size; with 3 of them it fails: "),
        ({"logits_fn": lambda x: jnp.zeros((1, 3))}, "for 3 images it gives"),
        ({"logits_fn": lambda x: np.asarray(x).reshape(-1, 16) @ WEIGHTS}, "logits_fn must be a JAX function"),
        ({"step_size": jnp.nan}, "step_size must be at least 0 and finite, it is nan"),
        ({"step_size": -0.1}, r"step_size must be at least 0 and finite, it is -0\.1"),
        ({"step_size": jnp.full(3, 0.1)}, "step_size must be a number or one per image"),
        ({"step_size": "a"}, "step_size must be a number or a fraction"),
        ({"eps": None}, "eps must be an array of numbers, it is NoneType"),
        ({"steps": 2.5}, r"steps must be a whole number, it is 2\.5"),
        ({"steps": 2**31}, "steps must be below 2147483648, it is 2147483648"),
        ({"logits_fn": lambda x: linear(x).T}, r"for 5 images it gives float32 of shape \(3, 5\)"),
        ({"objective": ["ce"]}, "objective must be an objective"),
        ({"y": np.ma.masked_array(Y, Y == 0)}, "y must be an array without a mask"),
        ({"restarts": 1.5}, "restarts must be a whole number"),
        ({"y": Y[:, None]}, r"y must be integer labels \[B\], it is int32 of shape \(6, 1\)"),
        ({"y": Y, "objective": "kl"}, r"y must be probabilities \[6, 3\], it is int32 of shape \(6,\)"),
        (
            {"objective": lambda z, y: jnp.sum(z)},
            r"objective must give one value per example, \[6\], it gives shape \(\)",
        ),
        ({"x": [[1.0], [1.0, 2.0]]}, "x must be an array of numbers, it is list"),
        ({"x": jnp.zeros((N, *SHAPE), jnp.uint8)}, r"x must hold floats in \[0, 1\], it holds uint8"),
        ({"ids": np.arange(N) + 2**31}, "ids must fit into 32 bits"),
        ({"eps": np.array("0.1")}, "eps must be an array of numbers, it is an array of <U3"),
        ({"eps": np.timedelta64(1)}, "eps must be an array of numbers"),
        ({"y": np.zeros(N, "m8[s]")}, r"y must be an array of numbers, it is an array of timedelta64\[s\]"),
        ({"steps": np.timedelta64(1)}, "steps must be a whole number"),
        ({"start": np.zeros(3)}, "unknown start array"),
        ({"key": 0}, r"key must be a random key such as jax\.random\.key\(0\), it is 0"),
        ({"key": np.zeros(3, np.uint32)}, r"key must be a random key .*, it is uint32 of shape \(3,\)"),
        ({"eps": 0.1 + 0.2j}, "eps must be a real number"),
        ({"eps": True}, "eps must be a real number"),
        ({"step_size": np.full(N, 0.1j)}, "step_size must be a real number"),
        ({"targeted": "no"}, "targeted must be True or False, it is 'no'"),
        ({"freeze": 3}, "freeze must be True or False, it is 3"),
        ({"objective": lambda z: z}, "objective must be a JAX function .*; it fails: TypeError"),
        ({"objective": lambda z, y: jnp.argmax(z, -1)}, "objective must give values in floating point, it gives int32"),
        ({"y": jnp.full((N, K), jnp.nan), "objective": "kl"}, "y must be probabilities"),
        ({"y": jnp.ones((N, K)), "objective": "ce"}, "y must be probabilities"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input(changes, message):
    options = {"logits_fn": wavy, "key": KEY, "x": X, "y": Y, **settings(), **changes}
    with pytest.raises(InputError, match=message) as error:
        attacks.pgd(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("norm", "shape"), [("l1", (1, 1, 1)), ("l1", (2, 7, 1)), ("linf", (5, 2, 3))])
def test_one_pixel_and_oblong_images_reach_the_optimum(norm, shape):
    d = int(np.prod(shape))
    weights = jax.random.normal(KEY, (d, 2))
    x, y = jnp.full((3, *shape), 0.5), jnp.zeros(3, jnp.int32)

    def network(x):
        return x.reshape(len(x), -1) @ weights

    options = {"eps": 0.25, "step_size": 0.05, "steps": 30, "objective": "margin"}
    x_adv = attacks.pgd(network, KEY, x, y, norm=norm, **options)
    slope = np.asarray(weights[:, 1] - weights[:, 0])
    best = 0.25 * np.linalg.norm(slope, {"l1": np.inf, "linf": 1}[norm])
    np.testing.assert_allclose((x_adv - x).reshape(3, -1) @ slope, best, rtol=1e-4)


def test_no_images_give_no_images():
    for norm in threat.NORMS:
        assert attacks.pgd(wavy, KEY, X[:0], Y[:0], **settings(norm=norm, restarts=2)).shape == (0, *SHAPE)


@pytest.mark.parametrize("norm", threat.NORMS)
def test_logits_that_are_not_finite_leave_the_image_in_the_box(norm):
    def broken(x):
        return jnp.where(x[:, :1, 0, 0] > 0.5, jnp.nan, wavy(x))

    x_adv = attacks.pgd(broken, KEY, X, Y, **settings(norm=norm))
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert not np.array_equal(x_adv, X)


def test_a_network_that_is_another_function_at_every_call_is_said_so_once():
    """Not of one that is kept, of methods of equal objects, or within `jit`."""
    x, y = jnp.full((2, 2, 2, 1), 0.5), jnp.zeros(2, jnp.int32)

    def network(w, x):
        return x.reshape(len(x), -1) @ w

    def attack(f):
        return pgd(f, KEY, x, y, eps=0.1, step_size=0.1, steps=0)

    def made():
        return lambda x: network(jnp.ones((4, 3)), x)

    def caught(*functions):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for f in functions:
                attack(f)
        return [str(warning.message) for warning in found]

    kept = made()
    assert caught(*[kept] * 4) == []
    assert caught(*(jax.tree_util.Partial(network, i * jnp.ones((4, 3))) for i in range(4))) == []
    jax.jit(lambda: [attack(made()) for _ in range(4)])()
    (message,) = caught(*(made() for _ in range(5)))
    assert "third function made by <lambda>" in message and "test_pgd.py" in message and "compiled anew" in message
    (message,) = caught(*(functools.partial(network, jnp.ones((4, 3))) for _ in range(5)))
    assert "made by network" in message
