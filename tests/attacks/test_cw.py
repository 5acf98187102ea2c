"""CW-l_2 against the distance to a linear boundary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import cw_l2
from advjax.attacks.cw import CWL2
from advjax.attacks.engine.oracle import Example
from advjax.errors import InputError
from tests.attacks import toy

KEY = jax.random.key(0)


def test_distance_to_a_linear_boundary():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(27, 3))
    x = rng.uniform(0.4, 0.6, (5, 3, 3, 3)).astype(np.float32)
    f = toy.linear(weights)
    logits = np.asarray(f(x), np.float64)
    y = np.argmax(logits, -1).astype(np.int32)
    gaps = logits[np.arange(5), y][:, None] - logits
    slopes = np.linalg.norm(weights.T[None] - weights.T[y][:, None], axis=-1)
    exact = np.where(gaps > 0, gaps / np.maximum(slopes, 1e-9), np.inf).min(-1)
    result = cw_l2(f, KEY, x, y, steps=150, rounds=7, learning_rate=0.02, first_c=0.1)
    assert np.all(result.success) and np.all(np.argmax(f(result.x_adv), -1) != y)
    assert np.all(np.asarray(result.distance) >= exact * (1 - 1e-4))
    assert np.all(np.asarray(result.distance) <= exact * 1.1 + 1e-3)
    np.testing.assert_allclose(toy.distance(result.x_adv, x, "l2"), result.distance, rtol=1e-5)
    # A radius changes what counts, not what is found.
    within = cw_l2(
        f, KEY, x, y, eps=float(jnp.median(result.distance)), steps=150, rounds=7, learning_rate=0.02, first_c=0.1
    )
    np.testing.assert_array_equal(within.x_adv, result.x_adv)
    np.testing.assert_array_equal(within.success, result.distance <= jnp.median(result.distance))
    fractions = cw_l2(f, KEY, x, y, steps=2, rounds=1, learning_rate="2/100", first_c=jnp.bfloat16(0.5))
    np.testing.assert_array_equal(
        fractions.x_adv, cw_l2(f, KEY, x, y, steps=2, rounds=1, learning_rate=0.02, first_c=0.5).x_adv
    )
    with pytest.raises(InputError, match="norm must be l2"):
        cw_l2(f, KEY, x, y, norm="linf")


def test_the_weight_is_looked_for_by_binary_search():
    x = jnp.full((3, 2, 2, 1), 0.5)
    zeros = jnp.zeros(3, jnp.int32)
    e, attack = Example(x, zeros, jnp.zeros(3), zeros, zeros, zeros), CWL2()
    state = attack.begin(e, jax.random.key(0))
    # Found at the first weight; found at none so far; failed below a weight that succeeded.
    state = state._replace(
        c=jnp.asarray([0.01, 0.01, 0.05]),
        low=jnp.zeros(3),
        high=jnp.asarray([jnp.inf, jnp.inf, 0.1]),
        found=jnp.asarray([True, False, False]),
    )
    new = attack.next_round(state, e)
    np.testing.assert_allclose(new.c, [0.005, 0.1, 0.075], rtol=1e-6)
    np.testing.assert_allclose(new.low, [0.0, 0.01, 0.05], rtol=1e-6)
    np.testing.assert_allclose(new.high, [0.01, np.inf, 0.1], rtol=1e-6)
    assert not new.found.any()


def test_confidence_asks_for_more():
    f, x, y = toy.labelled(4, wrong=0)
    result = cw_l2(f, KEY, x, y, steps=60, rounds=4, learning_rate=0.05, first_c=1.0, confidence=0.5)
    logits = np.array(f(result.x_adv))
    own = logits[np.arange(4), y]
    logits[np.arange(4), y] = -np.inf
    assert np.all((logits.max(-1) - own >= 0.5 - 1e-4)[np.asarray(result.success)])
    assert np.any(result.success)
