"""What attacks ask of a network: losses, gradients and verdicts against the network itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses
from advjax.attacks.engine.identity import identity, uses_gradients
from advjax.attacks.engine.oracle import Example, Oracle, fold, is_wrong, select
from tests.attacks import toy

KEY = jax.random.key(0)
F, X, Y = toy.labelled(6, wrong=2)
E = Example(X, Y, np.full(6, 0.1, np.float32), np.arange(6), np.zeros(6, np.int32), (Y + 1) % 10)


def noisy(x, key):
    return F(x + 0.3 * jax.random.normal(key, x.shape))


def test_verdicts_of_logits():
    logits = jnp.asarray([[0.0, 1], [1, 0], [jnp.nan, 1], [1, jnp.inf], [-jnp.inf, 0], [0, 0]])
    y = jnp.asarray([1, 1, 1, 0, 1, 0])
    for counted, expected in (("broken", [0, 1, 1, 1, 1, 0]), ("robust", [0, 1, 0, 0, 0, 0])):
        wrong, strange = is_wrong(logits, y, counted)
        np.testing.assert_array_equal(wrong, np.asarray(expected, bool))
        np.testing.assert_array_equal(strange, [False, False, True, True, True, False])


def test_loss_gradient_and_jacobian_are_the_networks_own():
    oracle = Oracle(jax.tree_util.Partial(F))
    answer, gradient = oracle.gradient("ce", X, E, None)
    np.testing.assert_allclose(answer.value, losses.cross_entropy(F(X), Y), rtol=1e-5)
    np.testing.assert_array_equal(answer.wrong, np.arange(6) < 2)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: losses.cross_entropy(F(x), Y).sum())(X), atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), oracle.value("ce", X, E, None), answer)
    targeted = oracle.value("margin_targeted", X, E, None).value
    np.testing.assert_allclose(
        targeted, F(X)[jnp.arange(6), (Y + 1) % 10] - F(X)[jnp.arange(6), Y], rtol=1e-4, atol=1e-5
    )
    logits, rows = oracle.jacobian(X, None)
    np.testing.assert_allclose(logits, F(X), rtol=1e-5)
    np.testing.assert_allclose(rows[3], jax.grad(lambda x: F(x)[:, 3].sum())(X), atol=1e-5)


def test_a_gradient_that_is_not_finite_is_none():
    oracle = Oracle(jax.tree_util.Partial(lambda x: jnp.where(x[:, :1, 0, 0] > 0.5, jnp.nan, F(x))))
    answer, gradient = oracle.gradient("ce", X, E, None)
    strange = X[:, 0, 0, 0] > 0.5
    assert strange.any() and not strange.all() and np.isfinite(gradient).all()
    np.testing.assert_array_equal(answer.non_finite, strange)
    np.testing.assert_array_equal(answer.wrong, strange | (np.arange(6) < 2))


def test_random_networks_are_averaged_and_voted_on_per_example():
    """The mean over draws by hand, and every example's draws its own, whatever stands beside it."""
    oracle = Oracle(jax.tree_util.Partial(noisy), stochastic=True, eot_samples=5)
    keys = oracle.keys(E, KEY, jnp.zeros(6, jnp.int32))
    draws = [jnp.stack([noisy(X[i : i + 1], fold(keys, draw)[i])[0] for i in range(6)]) for draw in range(5)]
    np.testing.assert_allclose(oracle.mean_logits(X, keys), np.mean(draws, 0), rtol=1e-4, atol=1e-5)
    wrong = np.mean([np.argmax(logits, -1) != Y for logits in draws], 0)
    np.testing.assert_array_equal(oracle.vote(X, Y, keys)[0], wrong > 0.5)
    assert 0 < (wrong > 0.5).sum() < 6 and ((wrong > 0) & (wrong < 1)).any()
    part = Example(*(field[2:4] for field in E))
    np.testing.assert_allclose(
        oracle.mean_logits(X[2:4], oracle.keys(part, KEY, jnp.zeros(2, jnp.int32))),
        np.mean(draws, 0)[2:4],
        rtol=1e-4,
        atol=1e-5,
    )


def test_select_takes_rows():
    new, old = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    chosen = select(jnp.asarray([True, False]), new, old)
    np.testing.assert_array_equal(chosen["a"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(chosen["b"], [1, 0])


def test_identity_is_of_weights_or_of_answers():
    variables = {"w": jnp.ones((60, 3))}
    carrying = jax.tree_util.Partial(lambda v, x: x.reshape(len(x), -1) @ v["w"], variables)
    moved = jax.tree_util.Partial(carrying.func, {"w": variables["w"].at[0, 0].add(1e-6)})
    assert identity(carrying, toy.SHAPE).keys() == {"weights"}
    assert identity(carrying, toy.SHAPE) == identity(carrying, toy.SHAPE) != identity(moved, toy.SHAPE)
    assert len(identity(F, toy.SHAPE)["probe"]) == 80
    assert identity(noisy, toy.SHAPE, stochastic=True).keys() == {"probe"}
    rng = np.random.default_rng(0)
    assert identity(lambda x: F(x) + rng.normal(size=10), toy.SHAPE) == {}


@pytest.mark.parametrize("depth", ["plain", "in jit", "in a loop", "in a branch"])
def test_gradients_within_a_network_are_seen_at_any_depth(depth):
    def moved(x):
        return x - 0.1 * jax.grad(lambda x: jnp.sum(F(x) ** 2))(x)

    network = {
        "plain": lambda x: F(moved(x)),
        "in jit": jax.jit(lambda x: F(moved(x))),
        "in a loop": lambda x: F(jax.lax.fori_loop(0, 2, lambda _, x: moved(x), x)),
        "in a branch": lambda x: F(jax.lax.cond(x.sum() > 0, moved, lambda x: x, x)),
    }[depth]
    assert uses_gradients(network, toy.SHAPE)
    assert not uses_gradients(F, toy.SHAPE)
