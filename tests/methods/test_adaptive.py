"""What an adaptive attack on a method maximises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses
from advjax.distill import dynamic_labels
from advjax.methods import METHODS, create
from advjax.methods.adaptive import own_loss
from tests.helpers import CLASSES, SHAPE, ToyNet
from tests.methods.by_hand import variables

RNG = np.random.default_rng(0)
X, X_ADV = (jnp.asarray(RNG.uniform(0, 1, (4, *SHAPE)), jnp.float32) for _ in range(2))
Y = jnp.asarray(RNG.integers(0, CLASSES, 4), jnp.int32)


def made(method):
    """A method's own loss on toy networks, and the logits of each on x and x'."""
    names = dict.fromkeys((*method.trained, *method.frozen, *method.averaged))
    given = {name: variables(number) for number, name in enumerate(names)}
    modules = {name: ToyNet() for name in names}
    logits = {name: tuple(ToyNet().apply(given[name], x) for x in (X, X_ADV)) for name in names}
    attacked = method.averaged.get(method.evaluated[0], method.evaluated[0])
    return own_loss(method, attacked, modules, given, CLASSES, 10, SHAPE), logits


def test_trades_and_its_kind():
    """CE(x) + beta KL(p(x) || p(x')), of which CE(x) is a constant of the attack; whatever wraps it."""
    for name in ("trades", "trades_ema", "trades_mail"):
        loss, logits = made(create(name, beta=6.0))
        clean, robust = logits["model"]
        expected = losses.cross_entropy(clean, Y) + 6 * losses.kl(clean, robust)
        np.testing.assert_allclose(loss(X_ADV, X, Y), expected, rtol=1e-5)


def test_distillation_takes_the_teacher_along():
    loss, logits = made(create("adaad"))
    expected = losses.kl(logits["robust_teacher"][1], logits["student"][1])
    np.testing.assert_allclose(loss(X_ADV, X, Y), expected, rtol=1e-5)
    loss, logits = made(create("rslad"))
    (teacher, _), student = logits["robust_teacher"], logits["student"]
    clean, robust = (losses.kl_probabilities(jax.nn.softmax(teacher), z, 1e-5) / CLASSES for z in student)
    np.testing.assert_allclose(loss(X_ADV, X, Y), robust * 5 / 6 + clean / 6, rtol=1e-5)


def test_dynat_attacks_with_the_label_of_its_guide():
    method = create("dynat")
    loss, logits = made(method)
    expected = method.beta * losses.cross_entropy(logits["target"][1], dynamic_labels(logits["guide"][0]))
    np.testing.assert_allclose(loss(X_ADV, X, Y), expected, rtol=1e-5)


SAY = {
    "adaad", "ard", "dkl", "dm", "dynat", "fat_trades", "hat", "iad_i", "iad_ii", "igdm", "kd", "lbgat", "mart", "rebat",
    "rslad", "saad", "saad_c", "st_at", "te", "trades",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_says_it_or_is_silent(name):
    """A finite number per image that is not another's, with a gradient; silence where the loss is a cross-entropy."""
    loss, _ = made(create(name))
    assert (loss is not None) == (name in SAY)
    if loss is None:
        return
    values, gradient = loss(X_ADV, X, Y), jax.grad(lambda x: jnp.sum(loss(x, X, Y)))(X_ADV)
    assert values.shape == (4,) and np.isfinite(values).all()
    assert (jnp.abs(gradient).max((1, 2, 3)) > 0).all()
    np.testing.assert_allclose(loss(X_ADV[1:3], X[1:3], Y[1:3]), values[1:3], atol=1e-5)
