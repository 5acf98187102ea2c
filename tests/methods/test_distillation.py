"""Distillation: defining identities, order of forwards and devices, of every method with teachers but B-MTARD."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses, methods
from advjax.errors import InputError
from advjax.methods import (
    ARD,
    CIARD,
    IADI,
    IADII,
    IGDM,
    KD,
    LBGAT,
    RSLAD,
    SAAD,
    SAADC,
    SGLR,
    AdaAD,
    Natural,
    TrainingAttack,
)
from tests.helpers import CLASSES, Run, distance, toy_data
from tests.methods.by_hand import first_layer_mean, loss_and_gradients, make_context, variables

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=2, start="normal")
TEACHERS = {"robust_teacher": variables(12), "clean_teacher": variables(11)}
KEY = jax.random.key(1)


def run(method, **options):
    frozen = {name: TEACHERS[name] for name in method.frozen}
    return Run(method, frozen=frozen, epochs=10, data=toy_data(14), **options)


def evaluated(method, context, x_adv):
    """(loss, gradients, aux), compiled."""
    return jax.jit(lambda x_adv: loss_and_gradients(method, context, x_adv))(x_adv)


def statistics(evaluated):
    return evaluated[2].nets["student"].stats


@pytest.mark.parametrize(
    "method",
    [
        ARD(dataclasses.replace(ATTACK, statistics="batch"), alpha=0.7, temperature=3.0),
        RSLAD(ATTACK),
        LBGAT(ATTACK, beta=6.0),
        IADI(ATTACK),
        IADII(ATTACK),
        KD(ATTACK),
        IGDM(AdaAD(ATTACK, alpha=0.7)),
        SAADC(ATTACK),
        CIARD(ATTACK),
    ],
    ids=lambda method: type(method).__name__,
)
def test_one_device_equals_four(method):
    """Two steps, the second with padding; frozen teachers are neither trained nor checkpointed."""
    options = {"phase": method.phase(9, 10), "given": TEACHERS if method.pretrained else None}
    one, four = run(method, **options).step(2), run(method, devices=4, **options).step(2)
    assert set(one.state.params) == set(one.state.opt_state) == set(method.trained)
    assert distance(one.state, four.state) < 1e-5
    for name in {*method.trained} - {*method.pretrained}:
        assert distance(one.state.params[name], one.initial.params[name]) > 1e-3
    for name, value in one.metrics.items():
        np.testing.assert_allclose(four.metrics[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "phase", "network", "order"),
    [
        (ARD(), None, "student", "adv clean"),
        (RSLAD(), None, "student", "adv clean"),
        (AdaAD(), None, "student", "clean adv"),
        (LBGAT(), None, "target", "adv clean"),
        (LBGAT(), None, "guide", "clean"),
        (IADI(), "plain", "student", "adv adv clean"),
        (IADI(), "introspective", "student", "adv adv clean clean"),
        (IADII(), "plain", "student", "adv"),
        (IADII(), "introspective", "student", "adv clean"),
        (KD(), None, "student", "adv"),
        (IGDM(), None, "student", "adv opposite"),
        (IGDM(ARD()), None, "student", "adv clean opposite"),
        (SAAD(), None, "student", "adv opposite clean"),
        (CIARD(), "resting", "student", "clean adv"),
        (CIARD(), "resting", "robust_teacher", "clean adv"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, methods.Method) else str(value).replace(" ", "-"),
)
def test_order_of_forwards(method, phase, network, order):
    """running <- 0.9 running + 0.1 of each batch in turn; x' = 1 - x, so x - d = 3 x - 1."""
    context = make_context(method, phase=phase)
    x, net = context.batch.image, context.nets[network]
    moved = jax.jit(lambda x_adv: method.loss(context, x_adv, KEY)[1].nets)(1 - x)
    expected = net.stats["BatchNorm_0"]["mean"]
    for name in order.split():
        image = {"adv": 1 - x, "clean": x, "opposite": 3 * x - 1}[name]
        expected = 0.9 * expected + 0.1 * first_layer_mean(net.params, image)
    np.testing.assert_allclose(moved[network].stats["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)
    assert set(moved) == set(method.trained)


def test_ard_without_distillation_is_natural_training():
    context = make_context(ARD(alpha=0.0))
    natural = dataclasses.replace(context, nets={"model": context.nets["student"]})
    ours = evaluated(ARD(alpha=0.0), context, 1 - context.batch.image)
    theirs = evaluated(Natural(), natural, context.batch.image)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    assert distance(ours[1]["student"], theirs[1]["model"]) < 1e-7


class Linear(nn.Module):
    """A network that is the same in training and evaluation mode."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


@pytest.mark.parametrize("method", [AdaAD(ATTACK, alpha=0.7), IGDM(AdaAD(ATTACK)), SAADC(ATTACK)], ids=repr)
def test_a_student_that_is_its_teacher_has_loss_and_gradient_zero(method):
    context = make_context(method)
    params = Linear().init(KEY, context.batch.image)["params"]
    context = context.with_nets(
        {name: dataclasses.replace(net, module=Linear(), params=params, stats={}) for name, net in context.nets.items()}
    )
    value, gradients, _ = evaluated(method, context, 1 - context.batch.image)
    assert abs(value) < 1e-6
    assert distance(gradients["student"], jax.tree.map(jnp.zeros_like, params)) < 1e-6


@pytest.mark.parametrize("method", [RSLAD(ATTACK), AdaAD(ATTACK)], ids=["rslad", "adaad"])
def test_labels_serve_nothing(method):
    context = make_context(method)
    other = dataclasses.replace(context, batch=context.batch._replace(label=(context.batch.label + 1) % CLASSES))

    def both(context):
        x_adv, _ = method.perturb(context, KEY)
        return x_adv, method.loss(context, x_adv, KEY)[0]

    assert distance(*(jax.jit(lambda x, c=c: both(c))(0) for c in (context, other))) == 0.0


def test_the_teacher_pulls_the_attack_of_adaad():
    """Its x' is not that of RSLAD, and parts student and teacher further."""
    context = make_context(AdaAD(ATTACK))
    networks = (context.nets[name].logits_fn for name in ("robust_teacher", "student"))
    teacher, student = networks
    apart = {}
    for method in (AdaAD(ATTACK), RSLAD(ATTACK)):
        x_adv = method.perturb(context, KEY)[0]
        apart[type(method)] = jnp.mean(losses.kl(teacher(x_adv), student(x_adv)))
    assert apart[AdaAD] > apart[RSLAD] + 1e-3


@pytest.mark.parametrize("base", [ARD(), RSLAD(), AdaAD()], ids=lambda base: type(base).__name__)
def test_igdm_is_its_base_at_alpha_zero_and_grows_with_the_epochs(base):
    context = make_context(base)
    x_adv = 1 - context.batch.image
    plain, off = (evaluated(method, context, x_adv) for method in (base, IGDM(base, alpha=0.0)))
    assert distance((plain[:2], statistics(plain)), (off[:2], statistics(off))) == 0.0
    values = [IGDM(base).loss(dataclasses.replace(context, epoch=e), x_adv, KEY) for e in (0, 9)]
    matching = float(jnp.divide(*values[1][1].metrics["gradient_matching"]))
    np.testing.assert_allclose(values[0][0], plain[0] + 5 * 0.1 * matching, rtol=1e-5)
    np.testing.assert_allclose(values[1][0], plain[0] + 5 * matching, rtol=1e-5)
    assert matching > 1e-3


def test_what_awp_ascends_has_the_matching_in_it():
    method = IGDM()
    context = make_context(method)
    x_adv = 1 - context.batch.image
    assert method.proxy_loss(context, x_adv, KEY) == method.loss(context, x_adv, KEY)[0]


def test_saad_c_without_clean_images_is_saad():
    context = make_context(SAAD())
    x_adv = 1 - context.batch.image
    ours, theirs, other = (evaluated(m, context, x_adv) for m in (SAADC(beta=0.0), SAAD(), SAADC()))
    assert distance((ours[:2], statistics(ours)), (theirs[:2], statistics(theirs))) == 0.0
    assert distance(ours[1], other[1]) > 1e-4


def test_saad_gives_no_weight_to_the_example_the_teacher_is_surest_of():
    context = make_context(SAAD())
    x_adv = 1 - context.batch.image
    values, _ = SAAD().example_losses(context, x_adv, SAAD().forwards(context, x_adv)[0])
    entropy = losses.entropy(context.nets["robust_teacher"].logits_fn(x_adv))
    assert values[jnp.argmin(entropy)] == 0.0 < jnp.sort(values)[1]


def test_renyi_entropy():
    """Of order 2 it is -log of the chance of a collision; towards order 1 it is Shannon's."""
    z = 3 * jax.random.normal(KEY, (5, CLASSES))
    p = jax.nn.softmax(z)
    np.testing.assert_allclose(losses.renyi_entropy(z, 2.0), -jnp.log(jnp.sum(p**2, -1)), rtol=1e-5)
    np.testing.assert_allclose(losses.renyi_entropy(z, 1.0), losses.entropy(z), rtol=1e-6)
    np.testing.assert_allclose(losses.renyi_entropy(z, 1.001), losses.entropy(z), rtol=1e-2)


@pytest.mark.parametrize(("method", "first"), [(IADI(), 60), (IADII(), 40), (CIARD(), 50)], ids=["i", "ii", "ciard"])
def test_phases(method, first):
    """IAD of 200 epochs, from 60 and 40 on, counted from 0; CIARD's teacher of 300 after 50."""
    epochs = 300 if isinstance(method, CIARD) else 200
    phases = [method.phase(epoch, epochs) for epoch in range(epochs)]
    assert phases == [phases[0]] * first + [phases[-1]] * (epochs - first)
    assert phases[0] != phases[-1]


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ard", {"alpha": 1.5}, r"^alpha must be between 0 and 1"),
        ("ard", {"temperature": 0.0}, r"^temperature must be above 0"),
        ("rslad", {"adversarial_weight": -1.0}, r"^adversarial_weight must be between 0 and 1"),
        ("adaad", {"reduction": "sum"}, r"^reduction must be a reduction, it is 'sum'"),
        ("adaad", {"attack": TrainingAttack(statistics="batch")}, r"^attack.statistics must be running"),
        ("saad", {"attack": TrainingAttack(statistics="batch")}, r"^attack.statistics must be running"),
        ("lbgat", {"beta": -6.0}, r"^beta must be at least 0"),
        ("iad_ii", {"alpha1": 0.9}, r"^alpha1 plus alpha2 must be at most 1, it is 1.15"),
        ("kd", {"clean_weight": 0.5}, r"^clean_weight plus robust_weight must be at most 1"),
        ("igdm", {"base": {"name": "pgd_at"}}, r"^base must be ard, rslad or adaad"),
        ("igdm", {"base": {"alpha": 2.0}}, r"^base.alpha must be between 0 and 1"),
        ("ciard", {"teacher_begin": 1.0}, r"^teacher_begin must be at least 0 and below 1"),
    ],
)
def test_wrong_values_are_named(name, fields, message):
    with pytest.raises(InputError, match=message):
        methods.create(name, **fields)


def test_created_by_name():
    attack = TrainingAttack(steps=3, start="normal")
    assert methods.create("igdm", attack, alpha=1.0) == IGDM(
        AdaAD(attack, reduction="batch", clean_statistics=False), alpha=1.0
    )
    other = methods.create("igdm", attack, base={"name": "rslad", "scale": 10.0})
    assert other == IGDM(RSLAD(attack, scale=10.0))
    assert methods.create("sglr").base == SGLR().base
