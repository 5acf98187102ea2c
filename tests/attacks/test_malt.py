"""MALT's targets against a literal reading of their definition."""

import jax
import numpy as np
import pytest

from advjax.attacks import Stage, cascade, malt_targets
from advjax.errors import InputError
from tests.attacks import toy
from tests.attacks.test_autoattack import SucceedsIfMisled

F, X, Y = toy.labelled(6, wrong=1)


@pytest.mark.parametrize(("norm", "q"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_targets_are_the_classes_of_the_nearest_boundaries(norm, q):
    logits = np.asarray(F(X), np.float64)
    jacobian = np.asarray(jax.vmap(jax.jacrev(lambda x: F(x[None])[0]))(X), np.float64)
    for i in range(6):
        rows = jacobian[i].reshape(10, -1)
        others = [c for c in np.argsort(-logits[i]) if c != Y[i]][:6]
        score = [(logits[i].max() - logits[i, c]) / np.linalg.norm(rows[c] - rows[Y[i]], q) for c in others]
        expected = np.asarray(others)[np.argsort(score, kind="stable")][:4]
        np.testing.assert_array_equal(malt_targets(F, X, Y, norm=norm, count=4, candidates=6)[i], expected)


def test_cascade_aims_at_them_and_autoattack_does_not():
    options = {"norm": "linf", "eps": 0.05, "attacks": (Stage("misled", SucceedsIfMisled(), 9),)}
    options["devices"] = jax.devices()[:1]
    near = cascade(F, jax.random.key(0), X, Y, targets="malt", **options)
    likeliest = np.argsort(-F(X), -1)[:, 1:]
    other = (malt_targets(F, X, Y, norm="linf") != likeliest).any(-1)
    np.testing.assert_array_equal(near.robust[1:], ~other[1:])
    assert other[1:].any() and cascade(F, jax.random.key(0), X, Y, **options).robust[1:].all()
    with pytest.raises(InputError, match="unknown targets"):
        cascade(F, jax.random.key(0), X, Y, targets="nearest", **options)
