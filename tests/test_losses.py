"""Losses against hand-computed values, under the transformations that they are used with."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from advjax import losses
from advjax.errors import InputError

LOGITS = jnp.array([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 1.0]])
LABEL = jnp.array([0, 1])
P = np.exp(np.asarray(LOGITS, np.float64)) / np.exp(np.asarray(LOGITS, np.float64)).sum(-1, keepdims=True)
OTHER = jnp.array([[0.0, 1.0, 0.5, 0.0], [1.0, 2.0, 0.0, 0.0]])
Q = np.exp(np.asarray(OTHER, np.float64)) / np.exp(np.asarray(OTHER, np.float64)).sum(-1, keepdims=True)

CASES = {
    "cross-entropy": (losses.cross_entropy, (LOGITS, LABEL), -np.log(P[[0, 1], [0, 1]])),
    "soft cross-entropy": (losses.cross_entropy, (LOGITS, jnp.asarray(Q)), -(Q * np.log(P)).sum(-1)),
    "kl": (losses.kl, (OTHER, LOGITS), (Q * (np.log(Q) - np.log(P))).sum(-1)),
    "kl to probabilities": (losses.kl_probabilities, (jnp.asarray(Q), LOGITS), (Q * (np.log(Q) - np.log(P))).sum(-1)),
    "entropy": (losses.entropy, (LOGITS,), -(P * np.log(P)).sum(-1)),
    # z_y = 2, the best other 1; z_y = 0, the best other 3
    "margin": (losses.margin, (LOGITS, LABEL), [-1.0, 3.0]),
    "cw": (losses.cw, (LOGITS, LABEL), [-51.0, -47.0]),
    # (z_(1), z_(3)) = (2, 0) and (3, 0)
    "dlr": (losses.dlr, (LOGITS, LABEL), [-0.5, 1.0]),
    # -(2 - 0)/(2 - (0 - 1)/2) and -(0 - 1)/(3 - 0)
    "targeted dlr": (losses.dlr_targeted, (LOGITS, LABEL, jnp.array([2, 3])), [-0.8, 1 / 3]),
    "boosted": (
        losses.boosted_cross_entropy,
        (LOGITS, LABEL),
        [-np.log(P[0, 0]) - np.log(1.0001 - P[0, 1]), -np.log(P[1, 1]) - np.log(1.0001 - P[1, 2])],
    ),
    "correct": (losses.correct, (LOGITS, LABEL), [1.0, 0.0]),
}


class ByHand(chex.TestCase):
    """The same numbers with and without jit, from host arrays and on every device."""

    @chex.variants(with_jit=True, without_jit=True, without_device=True, with_pmap=True)
    @parameterized.named_parameters(*((name, *case) for name, case in CASES.items()))
    def test_by_hand(self, loss, arguments, expected):
        values = self.variant(loss)(*arguments)
        chex.assert_shape(values, (2,))
        chex.assert_trees_all_close(values, np.asarray(expected, np.float32), rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_gradients_are_finite_where_an_output_is_certain(self):
        """A logit of 1e4 is a probability of 0 and of 1; the DLR alone divides by its size."""
        sure, label = jnp.array([[1e4, 0.0, -1e4, 0.0]]), jnp.array([1])
        given = {losses.kl: sure, losses.kl_probabilities: jnp.array([[0.0, 1.0, 0.0, 0.0]])}

        def total(logits):
            of_labels = [f for f, arguments, _ in CASES.values() if len(arguments) == 2 and arguments[1] is LABEL]
            return sum(f(logits, label).sum() for f in of_labels) + sum(f(x, logits).sum() for f, x in given.items())

        chex.assert_tree_all_finite(self.variant(jax.grad(total))(sure))


def test_temperature_divides_the_logits():
    np.testing.assert_allclose(losses.kl(OTHER, LOGITS, 4.0), losses.kl(OTHER / 4, LOGITS / 4), rtol=1e-6)
    np.testing.assert_allclose(losses.entropy(LOGITS, 1e6), np.log(4), rtol=1e-5)


def test_kl_floor():
    q = np.array([[0.5, 0.5, 0.0, 0.0]])
    expected = (q * (np.log(q + 1e-5) - np.log(P[:1]))).sum(-1)
    np.testing.assert_allclose(losses.kl_probabilities(jnp.asarray(q), LOGITS[:1], 1e-5), expected, rtol=1e-5)
    finite = jax.grad(lambda z: losses.kl_probabilities(jnp.asarray(q), z).sum())(LOGITS[:1])
    np.testing.assert_allclose(finite, P[:1] - q, atol=1e-6)


def test_gradient_of_the_kl_flows_through_both_arguments():
    gradients = jax.grad(lambda a, b: losses.kl(a, b).sum(), argnums=(0, 1))(OTHER, LOGITS)
    np.testing.assert_allclose(gradients[1], P - Q, atol=1e-6)
    assert np.abs(gradients[0]).max() > 1e-2


def test_cw_stops_at_its_confidence():
    far = jnp.array([[0.0, 80.0, 0.0]])
    assert losses.cw(far, jnp.array([0]))[0] == 0
    assert losses.cw(far, jnp.array([0]), confidence=100.0)[0] == -20


def test_dlr_is_invariant_to_shift_and_scale():
    for scale, shift in ((10.0, 0.0), (0.1, 5.0)):
        np.testing.assert_allclose(losses.dlr(scale * LOGITS + shift, LABEL), losses.dlr(LOGITS, LABEL), rtol=1e-4)


def test_low_precision_logits_are_raised_first():
    value = losses.cross_entropy(LOGITS.astype(jnp.bfloat16), LABEL)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, losses.cross_entropy(LOGITS, LABEL), rtol=1e-6)


def test_smooth_labels():
    np.testing.assert_allclose(losses.smooth_labels(jnp.array([1]), 4, 0.2), [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)


def test_too_few_classes_and_unknown_names():
    with pytest.raises(InputError, match="at least 3 classes"):
        losses.dlr(LOGITS[:, :2], LABEL)
    with pytest.raises(InputError, match="at least 4 classes"):
        losses.dlr_targeted(LOGITS[:, :3], LABEL, LABEL)
    with pytest.raises(InputError, match="did you mean"):
        losses.objective("dlrr")
    assert losses.objective(losses.margin) is losses.margin


def test_the_probability_margin_is_the_margin_of_the_softmax():
    logits, label = jnp.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), jnp.array([0, 2])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [p[0, 2] - p[0, 0], p[1, 1] - p[1, 2]]
    np.testing.assert_allclose(losses.objective("probability_margin")(logits, label), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["best_other", "boosted_cross_entropy", "correct", "cross_entropy", "cw", "dlr", "margin", "probability_margin"],
)
def test_labels_that_would_be_broadcast_or_rounded_are_refused(name):
    logits = jnp.zeros((4, 10))
    for label in (jnp.zeros((4, 1), int), jnp.zeros(1, int), jnp.zeros(5, int), jnp.zeros(4)):
        with pytest.raises(InputError, match=r"labels must be integers of shape \(4,\)"):
            jax.eval_shape(getattr(losses, name), logits, label)
    with pytest.raises(InputError, match="must have one shape"):
        losses.cross_entropy(logits, jnp.zeros((1, 10)))


def test_distributions_of_different_shapes_and_temperatures_that_are_none():
    for one, other in ((LOGITS, LOGITS[:1]), (LOGITS[:1], LOGITS)):
        for loss in (losses.kl, losses.kl_probabilities):
            with pytest.raises(InputError, match="must have one shape"):
                loss(one, other)
    for loss in (lambda t: losses.kl(LOGITS, LOGITS, t), lambda t: losses.entropy(LOGITS, t)):
        for temperature in (0.0, -1.0, float("nan")):
            with pytest.raises(InputError, match="temperature must be above 0"):
                loss(temperature)
    with pytest.raises(InputError, match="smoothing must be from 0 to 1"):
        losses.smooth_labels(LABEL, 4, 1.5)
