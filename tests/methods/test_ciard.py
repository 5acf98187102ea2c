"""CIARD: the robust teacher's own steps, the temperatures, the push, and all of it across a checkpoint."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import losses, parallel
from advjax.data import epoch_order
from advjax.methods import AWP, CIARD
from advjax.methods.ciard import magnitude
from advjax.training.checkpoints import Checkpoints
from tests.helpers import Run, ToyNet, distance
from tests.methods.by_hand import Inverted, first_batch, make_context, variables

METHOD = CIARD(Inverted(), temperature_rate=0.05, teacher_rate=0.1, teacher_weight_decay=0.2, teacher_begin=0.0)
TEACHER, CLEAN = variables(12), variables(11)


def run():
    return Run(METHOD, frozen={"clean_teacher": CLEAN}, given={"robust_teacher": TEACHER}, epochs=10, phase="cyclic")


@pytest.fixture(scope="module")
def steps():
    """A run after three steps, and the states after 0, 1, 2 and 3."""
    trainer = run()
    states = [trainer.state]
    for _ in range(3):
        states.append(trainer.step().state)
    return trainer, states


def test_the_robust_teacher_starts_as_given_and_learns_by_its_own_rule(steps):
    """w - rate (dCE(R(x'), y)/dw + 0.2 w), while the student's optimizer has another rate and no decay."""
    trainer, states = steps
    x = first_batch(trainer)
    y = jnp.asarray(trainer.data.label[epoch_order(0, 0, len(trainer.data.label), 8)[0][0]])
    assert distance(states[0].params["robust_teacher"], TEACHER["params"]) == 0.0

    def value(params):
        logits, _ = ToyNet().apply({**TEACHER, "params": params}, 1 - x, train=True, mutable=["batch_stats"])
        return jnp.mean(losses.cross_entropy(logits, y))

    rate = 0.1 * (1 + np.cos(0.1 * np.pi)) / 2 * np.exp(-0.01 * 0.1**2)
    gradient = jax.grad(value)(TEACHER["params"])
    expected = jax.tree.map(lambda w, g: w - rate * (g + 0.2 * w), TEACHER["params"], gradient)
    assert distance(states[1].params["robust_teacher"], expected) < 1e-6
    assert distance(states[1].params["robust_teacher"], TEACHER["params"]) > 1e-3


def test_its_rule_rests_until_its_time_and_decays_to_nothing():
    method, default, w = CIARD(), optax.sgd(0.1), {"kernel": jnp.ones(1)}
    assert method.optimizer("student", default, 0, 300) is default
    moved = {}
    for epoch in (0, 49, 50, 174, 299):
        rule = method.optimizer("robust_teacher", default, jnp.asarray(epoch), 300)
        state = rule.init(w)
        first, state = rule.update(w, state, w)
        second, _ = rule.update(w, state, w)
        moved[epoch] = -first["kernel"][0] / 1.0002
        if moved[epoch]:
            np.testing.assert_allclose(second["kernel"] / first["kernel"], 1.1, rtol=1e-5)
    assert moved[0] == moved[49] == 0.0
    np.testing.assert_allclose(moved[50], 1e-4, rtol=1e-3)
    np.testing.assert_allclose(moved[174], 0.5e-4 * np.exp(-0.0025), rtol=1e-4)
    assert abs(moved[299]) < 1e-10


def test_temperatures_move_and_everything_survives_a_resume(steps, tmp_path):
    trainer, states = steps
    assert np.abs(states[3].method.shared - 1).max() > 0.04
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, states[2])
    restored = checkpoints.restore(1, states[2])
    checkpoints.close()
    trainer._state = parallel.replicate(restored, trainer.devices)
    assert distance(trainer.step().state, states[3]) == 0.0
    assert distance(states[2].opt_state["robust_teacher"], states[3].opt_state["robust_teacher"]) > 1e-4


def test_nothing_is_pushed_where_the_clean_teacher_is_right():
    context = make_context(METHOD, phase="resting")
    x_adv = 1 - context.batch.image
    right = jnp.argmax(context.nets["clean_teacher"].logits_fn(x_adv), -1).astype(jnp.int32)
    context = dataclasses.replace(context, batch=context.batch._replace(label=right))
    value, aux = METHOD.loss(context, x_adv, jax.random.key(0))
    terms = {name: float(total / count) for name, (total, count) in aux.metrics.items()}
    assert terms["misled"] == terms["push"] == 0.0
    np.testing.assert_allclose(value, terms["adv_loss"] + terms["nat_loss"], rtol=1e-6)


def test_magnitude():
    values = jnp.asarray([0.0, 3e-9, 0.00234, -0.5, 1.0, 70.0])
    np.testing.assert_array_equal(magnitude(values), [-7, -7, -3, -1, 0, 1])


def test_a_wrapper_hands_on_the_rule_and_what_is_given():
    assert AWP(METHOD).pretrained == ("robust_teacher",)
    default = optax.sgd(0.1)
    assert AWP(METHOD).optimizer("student", default, 0, 10) is default
    assert AWP(METHOD).optimizer("robust_teacher", default, 0, 10) is not default
