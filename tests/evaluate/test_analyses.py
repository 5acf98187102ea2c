"""The analyses on networks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import pgd
from advjax.errors import InputError
from advjax.evaluate import analyses


def test_gradient_norms_are_those_of_a_linear_network_for_labels_and_for_probabilities():
    """d CE / d W = x (p - t)', whose norm is |x| |p - t|; whatever the batches."""
    rng = np.random.default_rng(0)
    weights, x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), rng.normal(size=(7, 3)).astype(np.float32)
    label, soft = rng.integers(0, 4, 7), rng.dirichlet(np.ones(4), 7).astype(np.float32)
    p = np.asarray(jax.nn.softmax(x @ weights))
    for target, probabilities in ((label, np.eye(4)[label]), (soft, soft)):
        found = analyses.gradient_norms(lambda w, images: images @ w, weights, x, target, batch_size=3)
        expected = np.linalg.norm(x, axis=-1) * np.linalg.norm(p - probabilities, axis=-1)
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    with pytest.raises(InputError, match="as many images as targets"):
        analyses.gradient_norms(lambda w, images: images @ w, weights, x, label[:3])


def test_entropies_take_uint8_as_the_networks_do_and_a_temperature():
    """Logits (0, log 3 * x): p = 3/4 at x = 1, uniform at x = 0; at T = 2 the odds are the square root."""

    def logits_fn(x):
        return jnp.stack([jnp.zeros(len(x)), jnp.log(3.0) * x[:, 0, 0, 0]], -1)

    images = np.array([0, 255, 255], np.uint8).reshape(3, 1, 1, 1)
    sure = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(
        analyses.prediction_entropies(logits_fn, images, batch_size=2), [np.log(2), sure, sure], rtol=1e-5
    )
    p = np.sqrt(3) / (1 + np.sqrt(3))
    softer = analyses.prediction_entropies(logits_fn, images[1:], temperature=2.0)
    np.testing.assert_allclose(softer, [-(p * np.log(p) + (1 - p) * np.log(1 - p))] * 2, rtol=1e-5)


def test_transfer_is_white_box_on_the_diagonal_and_nothing_between_networks_that_look_elsewhere():
    """Two networks that look at one pixel each, and one at both: what is crafted on one pixel moves no other."""

    def looking_at(*pixels):
        def logits_fn(x):
            seen = sum(x[:, 0, pixel, 0] for pixel in pixels) / len(pixels) - 0.5
            return jnp.stack([-seen, seen], -1)

        return logits_fn

    # Within 0.2 of a half: the first two images; within 0.1, which is how far one pixel moves the mean: the second.
    images = np.array([[0.65, 0.65], [0.45, 0.45], [0.9, 0.9]], np.float32).reshape(3, 1, 2, 1)
    labels = np.array([1, 0, 1])

    def craft(logits_fn, x, y, ids):
        return pgd(logits_fn, jax.random.key(0), x, y, eps=0.2, step_size=0.1, steps=4, ids=ids, start="none")

    networks = {"left": looking_at(0), "right": looking_at(1), "both": looking_at(0, 1)}
    matrix = analyses.transfer_matrix(networks, craft, images, labels, batch_size=2)
    np.testing.assert_allclose(matrix, [[1 / 3, 1, 2 / 3], [1, 1 / 3, 2 / 3], [1 / 3, 1 / 3, 1 / 3]])
