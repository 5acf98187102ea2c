"""Distillation: defining identities, order of forwards, devices, of every method with teachers but B-MTARD."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import methods
from advjax.errors import InputError
from advjax.methods import ARD, LBGAT, RSLAD, AdaAD, Natural, TrainingAttack
from tests.helpers import CLASSES, Run, distance
from tests.methods.by_hand import (
    Inverted,
    first_batch,
    first_layer_mean,
    loss_and_gradients,
    make_context,
    variables,
)

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=2, start="normal")
TEACHERS = {"robust_teacher": variables(12), "clean_teacher": variables(11)}
KEY = jax.random.key(1)


def run(method, **options):
    return Run(method, frozen={name: TEACHERS[name] for name in method.frozen}, epochs=10, **options)


def attacked(method):
    """A context and the method's own examples in it."""
    context = make_context(method)
    return context, method.perturb(context, KEY)[0]


@pytest.mark.parametrize(
    "method",
    [
        ARD(dataclasses.replace(ATTACK, statistics="batch"), alpha=0.7, temperature=3.0),
        RSLAD(ATTACK),
        AdaAD(ATTACK, alpha=0.7),
        LBGAT(ATTACK, beta=6.0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_one_device_equals_four(method):
    """Three steps, the third with padding; teachers are neither trained nor checkpointed."""
    one, four = run(method).step(3), run(method, devices=4).step(3)
    assert set(one.state.params) == set(one.state.opt_state) == set(method.trained)
    assert distance(one.state, four.state) < 5e-6
    for name in method.trained:
        assert distance(one.state.params[name], one.initial.params[name]) > 1e-3
    for name, value in one.metrics.items():
        np.testing.assert_allclose(four.metrics[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "clean", "adversarial"),
    [(ARD(Inverted()), 0.1, 0.09), (RSLAD(Inverted()), 0.1, 0.09), (AdaAD(Inverted()), 0.09, 0.1),
     (AdaAD(Inverted(), clean_statistics=False), 0.0, 0.1), (LBGAT(Inverted()), 0.1, 0.09)],
    ids=["ard", "rslad", "adaad", "adaad-igdm", "lbgat"],
)  # fmt: skip
def test_order_of_forwards(method, clean, adversarial):
    """running = 0.81 old + 0.09 first + 0.10 second; the adversarial image is 1 - x."""
    after = run(method, optimizer=optax.sgd(0.0)).step()
    x, name = first_batch(after), method.trained[0]
    params = after.initial.params[name]
    expected = clean * first_layer_mean(params, x) + adversarial * first_layer_mean(params, 1 - x)
    np.testing.assert_allclose(after.state.stats[name]["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)
    if name == "target":
        mean = after.state.stats["guide"]["BatchNorm_0"]["mean"]
        expected = 0.1 * first_layer_mean(after.initial.params["guide"], x)
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-7)


def test_ard_without_distillation_is_natural_training():
    ard = run(ARD(ATTACK, alpha=0.0)).step(3)
    start = {"params": ard.initial.params["student"], "batch_stats": ard.initial.stats["student"]}
    natural = Run(Natural(), given={"model": start}).step(3)
    assert distance(ard.state.params["student"], natural.state.params["model"]) < 1e-6


class Linear(nn.Module):
    """A network that is the same in training and evaluation mode."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


def test_adaad_of_a_student_that_is_the_teacher_has_loss_and_gradient_zero():
    method = AdaAD(ATTACK, alpha=0.7)
    context = make_context(method)
    params = Linear().init(KEY, context.batch.image)["params"]
    same = {
        name: dataclasses.replace(net, module=Linear(), params=params, stats={}) for name, net in context.nets.items()
    }
    context = context.with_nets(same)
    value, gradients, _ = loss_and_gradients(method, context, method.perturb(context, KEY)[0])
    assert abs(value) < 1e-6
    assert distance(gradients["student"], jax.tree.map(jnp.zeros_like, params)) < 1e-6


@pytest.mark.parametrize("method", [RSLAD(ATTACK), AdaAD(ATTACK)], ids=["rslad", "adaad"])
def test_labels_serve_nothing(method):
    context, x_adv = attacked(method)
    other = dataclasses.replace(context, batch=context.batch._replace(label=(context.batch.label + 1) % CLASSES))
    np.testing.assert_array_equal(method.perturb(other, KEY)[0], x_adv)
    before, after = (loss_and_gradients(method, each, x_adv)[:2] for each in (context, other))
    assert distance(before, after) == 0.0


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ard", {"alpha": 1.5}, r"^alpha must be between 0 and 1"),
        ("ard", {"temperature": 0.0}, r"^temperature must be above 0"),
        ("rslad", {"adversarial_weight": -1.0}, r"^adversarial_weight must be between 0 and 1"),
        ("adaad", {"reduction": "sum"}, r"^reduction must be a reduction, it is 'sum'"),
        ("adaad", {"attack": TrainingAttack(statistics="batch")}, r"^attack.statistics must be running"),
        ("lbgat", {"beta": -6.0}, r"^beta must be at least 0"),
    ],
)
def test_wrong_values_are_named(name, fields, message):
    with pytest.raises(InputError, match=message):
        methods.create(name, **fields)
