"""The balance rules of B-MTARD and peer distillation: closed forms, fixed points, bounds, no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import distill, losses


def test_a_rate_drops_at_whole_epochs_and_rescales_with_the_run():
    milestones = (215 / 300, 260 / 300, 285 / 300)

    def rates(epochs):
        return np.asarray([distill.dropped(0.001, e, epochs, milestones) for e in range(epochs)])

    expected = np.full(300, 1e-3)
    for epoch in (215, 260, 285):
        expected[epoch:] *= 0.1
    np.testing.assert_allclose(rates(300), expected, rtol=1e-5)
    short = rates(30)  # 21.5, 26 and 28.5 round to whole epochs
    np.testing.assert_allclose(short[[20, 22, 25, 26, 27, 29]], [1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6], rtol=1e-5)


@pytest.mark.parametrize(
    ("entropies", "expected"),
    [([0.5, 0.2], [1.999, 3.001]), ([0.2, 0.5], [2.001, 2.999]), ([50.0, 0.2], [1.999, 3.001]), ([0.3, 0.3], [2, 3])],
    ids=["robust", "clean", "only the sign", "equal"],
)
def test_the_teacher_of_higher_entropy_is_sharpened(entropies, expected):
    new = distill.balance_temperatures(jnp.asarray([2.0, 3.0]), jnp.asarray(entropies), 0.001)
    np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_temperatures_stay_between_1_and_10():
    tau = jnp.ones(2)
    for _ in range(30):
        tau = distill.balance_temperatures(tau, jnp.asarray([1.0, 0.0]), 0.4)
    np.testing.assert_array_equal(tau, [1.0, 10.0])


def test_weights_follow_the_relative_losses():
    weights = distill.balance_losses(jnp.asarray([0.5, 0.5]), jnp.asarray([3.0, 1.0]), jnp.asarray([4.0, 4.0]), 0.1)
    np.testing.assert_allclose(weights, [0.9 * 0.5 + 0.1 * 0.75, 0.9 * 0.5 + 0.1 * 0.25], rtol=1e-6)
    squared = distill.balance_losses(
        jnp.asarray([0.5, 0.5]), jnp.asarray([3.0, 1.0]), jnp.asarray([4.0, 4.0]), 0.1, gamma=2.0
    )
    np.testing.assert_allclose(squared, [0.9 * 0.5 + 0.1 * 0.9, 0.9 * 0.5 + 0.1 * 0.1], rtol=1e-6)


def test_equal_weights_are_the_fixed_point_when_both_losses_have_halved():
    """Whatever the losses' own sizes; from anywhere else the weights go there."""
    first = jnp.asarray([0.08, 1.7])
    half = jnp.asarray([0.5, 0.5])
    np.testing.assert_allclose(distill.balance_losses(half, first / 2, first, 0.025), half, rtol=1e-6)
    weights = jnp.asarray([0.9, 0.1])
    for _ in range(300):
        weights = distill.balance_losses(weights, first / 2, first, 0.025)
    np.testing.assert_allclose(weights, half, atol=1e-3)


def test_weights_survive_losses_of_zero():
    weights = distill.balance_losses(jnp.asarray([0.7, 0.3]), jnp.zeros(2), jnp.zeros(2), 0.1)
    np.testing.assert_allclose(weights, [0.68, 0.32], rtol=1e-6)


def test_peer_distillation_is_the_mean_over_peers_and_reaches_none():
    rng = np.random.default_rng(0)
    z, one, two = (jnp.asarray(rng.normal(size=(5, 4)), jnp.float32) for _ in range(3))
    value = distill.peer_distillation(z, [one, two], 2.0)
    np.testing.assert_allclose(value, 4.0 * (losses.kl(one, z, 2.0) + losses.kl(two, z, 2.0)) / 2, rtol=1e-6)
    gradient = jax.grad(lambda z, peer: jnp.sum(distill.peer_distillation(z, [peer], 2.0)), (0, 1))(z, one)
    assert jnp.abs(gradient[0]).max() > 0.1
    assert jnp.abs(gradient[1]).max() == 0.0
    # d KL(q || p^T) / d z = (p^T - q) / T
    expected = 2.0 * (jax.nn.softmax(z / 2) - jax.nn.softmax(one / 2))
    np.testing.assert_allclose(gradient[0], expected, atol=1e-6)


def test_disagreement_counts_pairs():
    same, other = jnp.eye(3)[:2], jnp.eye(3)[jnp.asarray([0, 2])]
    np.testing.assert_allclose(distill.disagreement([same, same, other]), [0.0, 2 / 3], rtol=1e-6)


def test_shapes_that_would_be_broadcast_are_refused():
    two, three, logits = jnp.ones(2), jnp.ones(3), jnp.zeros((5, 4))
    for call in (
        lambda: distill.balance_temperatures(two, three, 0.1),
        lambda: distill.balance_losses(two, jnp.ones(()), two, 0.1),
        lambda: jax.jit(distill.balance_losses)(two, two, jnp.ones(1), 0.1),
        lambda: distill.peer_distillation(logits, [logits[:1]]),
        lambda: distill.refine_labels(logits, logits[:, :1]),
        lambda: distill.remember(logits[:1], logits),
    ):
        with pytest.raises(AssertionError, match="shape"):
            call()
