"""MART: its loss in double precision, its identities, where its gradient flows, the order of its forwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses
from advjax.errors import InputError
from advjax.methods import MART, PGDAT, TrainingAttack
from advjax.methods.mart import mart_loss
from tests.helpers import Run, distance
from tests.methods.by_hand import Inverted, first_layer_mean, loss_and_gradients, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=3, start="normal")
CLEAN = jnp.asarray([[2.0, 0.5, -1.0, 0.3], [0.1, 0.2, 0.3, 0.4]])
ROBUST = jnp.asarray([[0.2, 0.9, -1.0, 0.8], [0.1, -0.2, 1.3, 2.4]])
LABEL = jnp.asarray([0, 3])


def test_loss_written_out():
    p, q = (np.exp(np.asarray(z, np.float64)) for z in (CLEAN, ROBUST))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    true, wrong = [0, 3], [1, 2]  # the most probable wrong classes on x'
    rows = np.arange(2)
    bce = -np.log(q[rows, true]) - np.log(1.0001 - q[rows, wrong] + 1e-12)
    kl = (p * (np.log(p) - np.log(q + 1e-12))).sum(-1)
    weighted = (1.0000001 - p[rows, true]) * kl
    loss, second = mart_loss(CLEAN, ROBUST, LABEL, 5.0)
    np.testing.assert_allclose(second, weighted, rtol=1e-5)
    np.testing.assert_allclose(loss, bce + 5 * weighted, rtol=1e-5)


def test_beta_zero_leaves_the_boosted_cross_entropy_and_equal_images_no_kl():
    loss, _ = mart_loss(CLEAN, ROBUST, LABEL, 0.0)
    np.testing.assert_allclose(loss, losses.boosted_cross_entropy(ROBUST, LABEL), rtol=1e-6)
    np.testing.assert_allclose(mart_loss(CLEAN, CLEAN, LABEL, 5.0)[1], 0.0, atol=1e-6)


def test_gradient_flows_through_clean_prediction_and_weight():
    """Numerically, so that a stopped gradient anywhere shows."""
    gradient = jax.grad(lambda z: jnp.sum(mart_loss(z, ROBUST, LABEL, 5.0)[0]))(CLEAN)
    for entry in [(0, 0), (0, 1), (1, 3), (1, 0)]:
        step = 1e-2 * jnp.zeros_like(CLEAN).at[entry].set(1.0)
        up, down = (jnp.sum(mart_loss(CLEAN + s, ROBUST, LABEL, 5.0)[0]) for s in (step, -step))
        np.testing.assert_allclose(gradient[entry], (up - down) / 2e-2, rtol=1e-2, atol=1e-3)


def test_probabilities_of_zero_are_finite():
    extreme = jnp.asarray([[200.0, 0.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda z: jnp.sum(mart_loss(-extreme, z, jnp.asarray([1]), 5.0)[0]))(extreme)
    assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient))


def test_order_of_forwards_and_attack():
    method = MART(Inverted())
    context = make_context(method)
    net, x = context.nets["model"], context.batch.image
    _, _, aux = loss_and_gradients(method, context, method.perturb(context, jax.random.key(1))[0])
    old = 0.81 * net.stats["BatchNorm_0"]["mean"]
    new = 0.09 * first_layer_mean(net.params, x) + 0.1 * first_layer_mean(net.params, 1 - x)
    np.testing.assert_allclose(aux.nets["model"].stats["BatchNorm_0"]["mean"], old + new, rtol=1e-4, atol=1e-7)
    adversarial, of_at = (m(ATTACK).perturb(context, jax.random.key(1))[0] for m in (MART, PGDAT))
    np.testing.assert_array_equal(adversarial, of_at)


def test_one_device_equals_four():
    one, four = Run(MART(ATTACK)).step(3), Run(MART(ATTACK), devices=4).step(3)
    assert distance((one.state.params, one.state.stats), (four.state.params, four.state.stats)) < 2e-6
    assert distance(one.state.params, one.initial.params) > 1e-3


def test_negative_weight_is_named():
    with pytest.raises(InputError, match=r"^beta must be at least 0"):
        MART(beta=-1.0)
