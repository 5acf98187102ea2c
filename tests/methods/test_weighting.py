"""GAIRAT and MAIL: identities, the part of the loss that they are on, where they are refused, devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses, methods
from advjax.errors import InputError
from advjax.methods import (
    AWP,
    DYNAT,
    FGSMRS,
    GAIRAT,
    MAIL,
    MART,
    PGDAT,
    SGLR,
    TRADES,
    MATUnion,
    Natural,
    TrainingAttack,
)
from tests.helpers import Run, distance
from tests.methods.by_hand import loss_and_gradients, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.02, steps=10)
AT = PGDAT(ATTACK, clean_statistics=False)
KEY = jax.random.key(1)
ON, OFF = (None, True), (None, False)


def attacked(method, phase=ON):
    context = make_context(method, phase=phase)
    adversarial, nets = method.perturb(context, KEY)
    return context.with_nets(nets), adversarial


@pytest.mark.parametrize("base", [AT, TRADES(ATTACK), MART(ATTACK), DYNAT(ATTACK)], ids=lambda m: type(m).__name__)
def test_plain_before_the_start_and_a_constant_with_slope_zero(base):
    context, adversarial = attacked(MAIL(base), OFF)
    plain, gradients, _ = loss_and_gradients(base, dataclasses.replace(context, phase=None), adversarial)
    before, same, _ = loss_and_gradients(MAIL(base), context, adversarial)
    assert distance((before, same), (plain, gradients)) == 0.0
    flat = MAIL(base, slope=0.0)
    value, _, _ = loss_and_gradients(flat, dataclasses.replace(context, phase=ON), adversarial)
    share = {"PGDAT": plain, "MART": plain}.get(type(base).__name__)
    if share is None:  # the part of the loss that the weights are about
        net = context.nets[base.trained[0]]
        if isinstance(base, DYNAT):
            share = jnp.mean(losses.cross_entropy(net.train(adversarial[0])[0], adversarial[1]))
        else:
            share = 6.0 * jnp.mean(losses.kl(net.train(context.batch.image)[0], net.train(adversarial)[0]))
    np.testing.assert_allclose(value, plain + 0.5 * share, rtol=1e-5)
    normalised = dataclasses.replace(flat, normalise=True)
    value, _, _ = loss_and_gradients(normalised, dataclasses.replace(context, phase=ON), adversarial)
    np.testing.assert_allclose(value, plain, rtol=1e-5)


def test_on_sglr_the_memory_is_the_target_and_the_weights_are_on_it():
    method = MAIL(SGLR(AT), slope=0.0)
    context, adversarial = attacked(method, ((None, "refine"), True))
    value, _, aux = loss_and_gradients(method, context, adversarial)
    plain, _, expected = loss_and_gradients(SGLR(AT), method.inner(context), adversarial)
    # `inner` keeps the weights in the context, so both are weighted; without them it is two thirds.
    bare, _, _ = loss_and_gradients(SGLR(AT), dataclasses.replace(method.inner(context), weigh=None), adversarial)
    np.testing.assert_allclose([value, plain], [1.5 * bare, 1.5 * bare], rtol=1e-6)
    assert distance(aux.state.per_example[0], expected.state.per_example) == 0.0


def test_weights_begin_at_their_epoch():
    """GAIRAT's from epoch 60 of 120, counted from 1; MAIL's after 76."""
    for method, first in ((GAIRAT(AT), 60), (MAIL(AT), 77)):
        active = [method.phase(epoch, 120)[1] for epoch in range(120)]
        assert active.index(True) == first - 1
        assert all(active[first:])


@pytest.mark.parametrize("method", [AWP(GAIRAT(AT), gamma=0.05), MAIL(AT)], ids=["gairat_awp", "mail"])
def test_one_device_equals_four(method):
    phase = (ON, True) if isinstance(method, AWP) else ON
    one, four = (Run(method, devices=n, phase=phase, batch_size=12).step(2) for n in (1, 4))
    assert distance((one.state.params, one.state.stats), (four.state.params, four.state.stats)) < 2e-6


def test_refused_where_they_make_no_sense():
    for base in (Natural(), MATUnion(), GAIRAT(AT)):
        with pytest.raises(InputError, match=r"^base must be a method that weights its examples"):
            MAIL(base)
    with pytest.raises(InputError, match=r"^attack.steps must be at least 2"):
        GAIRAT(FGSMRS())
    assert methods.create("trades_mail", ATTACK, mail_slope=2.0) == MAIL(TRADES(ATTACK), slope=2.0)
