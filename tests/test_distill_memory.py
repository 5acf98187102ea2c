"""Dynamic labels and label memory: numbers worked out by hand, and no gradient where none may flow."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import distill, losses
from advjax.errors import InputError

LOGITS = jnp.log(jnp.asarray([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]]))
OTHER = jnp.log(jnp.asarray([[0.3, 0.3, 0.4], [0.6, 0.3, 0.1]]))
# A fifth of the first and four fifths of the second.
REFINED = np.asarray([[0.26, 0.38, 0.36], [0.58, 0.29, 0.13]], np.float32)


def test_memory_starts_one_hot():
    memory = distill.label_memory(np.asarray([2, 0, 1, 2]), 3)
    np.testing.assert_array_equal(memory, [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert memory.dtype == jnp.float32


def test_refinement_mixes_the_two_predictions():
    q = distill.refine_labels(LOGITS, OTHER, clean_weight=0.2)
    np.testing.assert_allclose(q, REFINED, rtol=1e-5)


class Transformed(chex.TestCase):
    """A step of SGLR's memory and of both balances, under the transformations that a training step puts around it."""

    @chex.variants(with_jit=True, without_jit=True, without_device=True, with_pmap=True)
    def test_what_a_step_does(self):
        def step(clean, adversarial, memory, label, temperatures):
            memory = distill.remember(memory, distill.refine_labels(clean, adversarial), alpha=0.9)
            target = distill.mix_with_labels(memory, label, r=0.5)
            entropies = jnp.stack([jnp.mean(losses.entropy(z)) for z in (clean, adversarial)])
            balanced = distill.balance_temperatures(temperatures, entropies, 0.1)
            weights = distill.balance_losses(jnp.full(2, 0.5), entropies, jnp.ones(2), 0.1)
            return target, distill.label_entropy(target), balanced, weights, distill.dropped(1.0, label[0], 4, (0.5,))

        memory, label = np.eye(3, dtype=np.float32)[:2], np.asarray([2, 0], np.int32)
        target, entropy, balanced, weights, rate = self.variant(step)(
            np.asarray(LOGITS), np.asarray(OTHER), memory, label, np.asarray([2.0, 3.0], np.float32)
        )
        chex.assert_shape([target, entropy, balanced, weights, rate], [(2, 3), (2,), (2,), (2,), ()])
        chex.assert_trees_all_close(target, 0.5 * (0.9 * memory + 0.1 * REFINED) + 0.5 * np.eye(3)[label], atol=1e-6)
        chex.assert_trees_all_close(entropy, -np.sum(target * np.log(target), -1), rtol=1e-5)
        # the entropies of LOGITS are below those of OTHER
        chex.assert_trees_all_close(balanced, np.asarray([2.1, 2.9], np.float32), rtol=1e-6)
        assert weights[1] > weights[0] and np.isclose(np.sum(weights), 1.0) and np.isclose(rate, 0.1)


def test_temperature_softens_both():
    q = distill.refine_labels(LOGITS, OTHER, clean_weight=0.5, temperature=2.0)
    roots = [np.sqrt([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]]), np.sqrt([[0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])]
    expected = sum(0.5 * root / root.sum(-1, keepdims=True) for root in roots)
    np.testing.assert_allclose(q, expected, rtol=1e-5)


def test_memory_is_a_running_average_whose_rows_sum_to_one():
    memory = distill.label_memory(np.asarray([0, 1]), 3)
    for _ in range(50):
        memory = distill.remember(memory, distill.refine_labels(LOGITS, OTHER), alpha=0.9)
    np.testing.assert_allclose(memory.sum(-1), 1.0, rtol=1e-5)
    expected = 0.9**50 * np.eye(3)[:2] + (1 - 0.9**50) * REFINED
    np.testing.assert_allclose(memory, expected, rtol=1e-4)


def test_the_papers_equation_is_the_case_without_memory():
    """w_c 0 and alpha 0 leave y = r f(x') + (1 - r) y_hard."""
    memory = distill.remember(jnp.ones((2, 3)), distill.refine_labels(LOGITS, OTHER, clean_weight=0.0), alpha=0.0)
    target = distill.mix_with_labels(memory, jnp.asarray([1, 2]), r=0.3)
    np.testing.assert_allclose(target, [[0.09, 0.79, 0.12], [0.18, 0.09, 0.73]], rtol=1e-5)


def test_no_gradient_flows_through_labels():
    def total(clean, adversarial, memory):
        refined = distill.refine_labels(clean, adversarial)
        return jnp.sum(jnp.square(distill.remember(memory, refined)) + jnp.square(refined))

    for gradient in jax.grad(total, argnums=(0, 1, 2))(LOGITS, OTHER, jnp.ones((2, 3))):
        assert not jnp.any(gradient)


def test_dynamic_labels_are_the_guides_arg_max():
    labels = distill.dynamic_labels(LOGITS)
    np.testing.assert_array_equal(labels, [1, 0])
    assert labels.dtype == jnp.int32


def test_label_entropy_is_zero_for_one_hot_and_log_k_for_uniform_labels():
    entropy = distill.label_entropy(jnp.asarray([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]))
    np.testing.assert_allclose(entropy, [0.0, np.log(3)], rtol=1e-6)


def test_what_no_memory_and_no_pair_is_made_of():
    for labels in ([0, 10], [-1]):
        with pytest.raises(InputError, match="labels must be from 0 to 9"):
            distill.label_memory(labels, 10)
    with pytest.raises(InputError, match="two networks or more"):
        distill.disagreement([jnp.zeros((1, 2))])
    with pytest.raises(InputError, match="at least one"):
        distill.peer_distillation(jnp.zeros((1, 2)), [])
    with pytest.raises(AssertionError):
        distill.mix_with_labels(jnp.ones((4, 2)), jnp.zeros(1, int))
    row = jnp.array([[0.5, 0.5]])
    for wrong, name in (
        (lambda: distill.mix_with_labels(row, jnp.zeros(1, int), 3.0), "r"),
        (lambda: distill.remember(row, row, -0.1), "alpha"),
        (lambda: distill.refine_labels(row, row, float("nan")), "clean_weight"),
    ):
        with pytest.raises(InputError, match=f"^{name} must be from 0 to 1"):
            wrong()
    with pytest.raises(InputError, match="temperature must be above 0"):
        distill.refine_labels(row, row, 0.2, 0.0)
