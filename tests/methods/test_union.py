"""MSD, MAX, AVG and single-norm training: optimizer steps, choice of examples, restarts, devices."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from advjax import losses, methods, threat
from advjax.errors import InputError
from advjax.methods import AVG, MAX, MSD, Natural, SingleNorm, TrainingAttack
from advjax.methods.norms import ORDER, Radius, per_norm, steepest_examples
from tests.helpers import Run, distance, toy_data
from tests.methods.by_hand import make_context

L2, L1 = Radius(0.4, 0.2), Radius("1.5", 0.5)
ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=2, start="none")
NO_ATTACK = dataclasses.replace(ATTACK, steps=0)


def union(cls, attack=ATTACK, **fields):
    return cls(attack, l2=L2, l1=L1, **fields)


@pytest.mark.parametrize(
    "method",
    [union(MSD, dataclasses.replace(ATTACK, statistics="batch")), union(AVG)],
    ids=["msd on batch statistics", "avg"],
)
def test_one_device_equals_four(method):
    one, four = Run(method).step(3), Run(method, devices=4).step(3)
    assert distance((one.state.params, one.state.stats), (four.state.params, four.state.stats)) < 2e-6
    assert distance(one.state.params, one.initial.params) > 1e-3


def test_avg_takes_three_optimizer_steps_per_batch():
    """Without an attack: three steps of natural training on the same images, one batch being all of the data."""
    data = toy_data(8)
    natural, avg = Run(Natural(), data=data).step(3), Run(union(AVG, NO_ATTACK, restart=False), data=data).step(1)
    assert distance(avg.state.params, natural.state.params) < 1e-6
    assert distance(avg.state.stats, natural.state.stats) < 1e-6
    assert set(avg.metrics) == {"loss", "robust_accuracy", "l1_accuracy", "l2_accuracy", "linf_accuracy"}


def test_avg_with_mean_takes_one():
    """One step of natural training without an attack; three forwards move the statistics."""
    data, optimizer = toy_data(8), optax.sgd(0.1)
    natural = Run(Natural(), data=data, optimizer=optimizer).step(1)
    run = Run(union(AVG, NO_ATTACK, mean=True, restart=False), data=data, optimizer=optimizer).step(1)
    assert distance(run.state.params, natural.state.params) < 1e-6
    once, thrice = (r.state.stats["model"]["BatchNorm_0"]["mean"] for r in (natural, run))
    np.testing.assert_allclose(thrice, once / 0.1 * (1 - 0.9**3), rtol=1e-4)


@pytest.fixture(scope="module")
def context():
    return make_context(MSD())


def cross_entropy(context, x_adv):
    return losses.cross_entropy(context.nets["model"].logits_fn(x_adv), context.batch.label)


def test_max_takes_the_worst_of_the_three(context):
    method = union(MAX)
    made, _ = method.examples(context, jax.random.key(0), ORDER)
    x_adv, moved = method.perturb(context, jax.random.key(0))
    values = np.stack([cross_entropy(context, each) for each in made])
    np.testing.assert_allclose(cross_entropy(context, x_adv), values.max(0), rtol=1e-5)
    assert distance(moved["model"].stats, context.nets["model"].stats) == 0.0
    for norm, each in zip(ORDER, made, strict=True):
        radius = {"l1": 1.5, "l2": 0.4, "linf": 0.1}[norm]
        size = threat.norm(each - context.batch.image, norm)
        assert (size <= radius * (1 + 1e-5)).all()
        assert size.max() > 0.9 * min(radius, 2 * {"l1": 0.5, "l2": 0.2, "linf": 0.05}[norm])


def test_msd_does_at_least_as_well_as_every_norm_in_one_step(context):
    method = union(MSD, dataclasses.replace(ATTACK, steps=1))
    key = jax.random.key(0)
    x_adv, _ = method.perturb(context, key)
    for norm, attack in method.attacks.items():
        alone, _ = steepest_examples(context, key, context.nets["model"], {norm: attack})
        assert (cross_entropy(context, x_adv) >= cross_entropy(context, alone) - 1e-5).all()


def test_a_single_norm_attacks_in_its_norm(context):
    method = methods.create("p_1", attack=dataclasses.replace(ATTACK, norm="l1", eps=1.5, step_size=0.5))
    assert isinstance(method, SingleNorm)
    x_adv, _ = method.perturb(context, jax.random.key(0))
    moved = np.asarray(threat.norm(x_adv - context.batch.image, "l1"))
    assert ((moved > 0.5) & (moved <= 1.5 * (1 + 1e-5))).all()


def test_a_restart_replaces_only_what_it_fools(context):
    attacks, net, key = {"linf": dataclasses.replace(ATTACK, steps=1)}, context.nets["model"], jax.random.key(1)
    first, _ = steepest_examples(context, key, net, attacks)
    both, _ = steepest_examples(context, key, net, attacks, restart=True)
    changed = np.asarray((first != both).any((1, 2, 3)))
    fooled = np.asarray(losses.correct(net.logits_fn(both), context.batch.label) == 0)
    assert changed.any()
    assert not changed.all()
    assert fooled[changed].all()


def test_fields():
    method = methods.create("max", attack=ATTACK, l2={"eps": "1/2", "step_size": 0.1, "steps": 7})
    attacks = per_norm(method.attack, method.l2, method.l1)
    assert tuple(attacks) == ORDER
    assert [attacks[norm].steps for norm in ORDER] == [50, 7, 2]
    assert [attacks[norm].norm for norm in ORDER] == list(ORDER)
    for fields, attack, message in (
        ({"l2": {"eps": "a", "step_size": 1}}, ATTACK, r"^l2\.eps must be a number"),
        ({"l2": {"epss": 1}}, ATTACK, r"^l2\.epss must be a field of a radius.*did you mean eps"),
        ({"l1": {"eps": 1, "step_size": 1, "steps": -1}}, ATTACK, r"^l1\.steps must be at least 0"),
        ({}, dataclasses.replace(ATTACK, norm="l2"), r"^attack must have the norm linf"),
    ):
        with pytest.raises(InputError, match=message):
            methods.create("msd", attack=attack, **fields)
