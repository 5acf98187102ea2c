"""B-MTARD and MTARD: one step by hand, order of forwards, state, devices, and the loss written anew in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import methods, parallel
from advjax.errors import InputError
from advjax.methods import BMTARD, MTARD, TrainingAttack
from advjax.training.checkpoints import Checkpoints
from tests.helpers import CLASSES, Run, ToyNet, distance
from tests.methods.by_hand import Inverted, first_batch, first_layer_mean, make_context, variables

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=2, start="normal")
TEACHERS = {"clean_teacher": variables(11), "robust_teacher": variables(12)}


def run(method, **options):
    return Run(method, frozen=TEACHERS, epochs=10, **options)


def teacher(name, x):
    return ToyNet().apply(TEACHERS[name], x)


def student(run_, x):
    given = {"params": run_.initial.params["student"], "batch_stats": run_.initial.stats["student"]}
    return ToyNet().apply(given, x, train=True, mutable=["batch_stats"])[0]


@pytest.fixture(scope="module")
def three_steps():
    """The states after 0, 1, 2 and 3 steps of B-MTARD, whose third batch has padding, and their metrics."""
    trainer = run(BMTARD(ATTACK, temperature_rate=0.05))
    states, metrics = [trainer.state], [{}]
    for _ in range(3):
        trainer.step()
        states.append(trainer.state)
        metrics.append(trainer.metrics)
    return states, metrics


def test_mtard_is_bmtard_with_both_temperatures_held_at_1(three_steps):
    mtard = run(MTARD(ATTACK)).step(3)
    held = run(BMTARD(ATTACK, temperature_rate=0.0)).step(3)
    assert distance((mtard.state.params, mtard.state.method), (held.state.params, held.state.method)) == 0.0
    np.testing.assert_array_equal(mtard.state.method.shared.temperatures, [1, 1])
    # The temperatures matter: with them the student ends elsewhere.
    assert distance(mtard.state.params, three_steps[0][3].params) > 1e-5


def test_temperatures_move_by_the_sign_of_the_entropies_and_stay_in_their_range(three_steps):
    states, metrics = three_steps
    for before, after, seen in zip(states, states[1:], metrics[1:], strict=False):
        tau, sign = before.method.shared.temperatures, np.sign(seen["adv_entropy"] - seen["nat_entropy"])
        expected = np.clip(tau - 0.05 * sign * np.asarray([1, -1]), 1, 10)
        np.testing.assert_allclose(after.method.shared.temperatures, expected, rtol=1e-6)
        np.testing.assert_allclose([seen["adv_temperature"], seen["nat_temperature"]], tau, rtol=1e-6)
    assert states[3].method.shared.temperatures.max() > 1.1


def test_the_weights_that_are_kept_are_those_of_the_loss(three_steps):
    states, metrics = three_steps
    first = states[1].method.shared.first
    weights = np.asarray([0.5, 0.5])
    for state, seen in zip(states[1:], metrics[1:], strict=True):
        np.testing.assert_array_equal(state.method.shared.first, first)
        values = np.asarray([seen["adv_loss"], seen["nat_loss"]])
        share = values / first / np.sum(values / first)
        weights = 0.975 * weights + 0.025 * share
        np.testing.assert_allclose(state.method.shared.weights, weights, rtol=1e-5)
        np.testing.assert_allclose(seen["loss"], np.sum(weights * values), rtol=1e-5)
    assert abs(weights[0] - 0.5) > 1e-4


def test_one_device_equals_four(three_steps):
    four = run(BMTARD(ATTACK, temperature_rate=0.05), devices=4).step(3).state
    one = three_steps[0][3]
    assert distance((one.params, one.stats, one.method), (four.params, four.stats, four.method)) < 2e-6
    assert int(one.method.shared.step) == 3


def test_a_step_by_hand():
    """L = scale (w_adv KL~ + w_nat KL~), means over B and C, teachers tempered, the new weights, in float64."""
    trainer = run(BMTARD(Inverted(), scale=10.0, weight_rate=0.5, gamma=2.0)).step()
    x = first_batch(trainer)
    values = []
    for name, image in (("robust_teacher", 1 - x), ("clean_teacher", x)):
        q = np.asarray(jax.nn.softmax(teacher(name, image)), np.float64)
        p = np.asarray(jax.nn.softmax(student(trainer, image)), np.float64)
        values.append(10.0 * np.sum(q * (np.log(q + 1e-5) - np.log(p))) / (8 * CLASSES))
    np.testing.assert_allclose([trainer.metrics["adv_loss"], trainer.metrics["nat_loss"]], values, rtol=1e-5)
    np.testing.assert_allclose(trainer.metrics["loss"], 0.5 * sum(values), rtol=1e-5)


def test_statistics_move_by_the_adversarial_then_the_clean_batch():
    """running = 0.81 old + 0.09 adversarial + 0.1 clean; one concatenated batch would give 0.9 old + 0.1 of both."""
    trainer = run(BMTARD(Inverted()), optimizer=optax.sgd(0.0)).step()
    x = first_batch(trainer)
    params = trainer.initial.params["student"]
    expected = 0.09 * first_layer_mean(params, 1 - x) + 0.1 * first_layer_mean(params, x)
    np.testing.assert_allclose(trainer.state.stats["student"]["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)


def test_teachers_get_no_gradient_and_rates_drop_with_the_epochs(three_steps):
    state = three_steps[0][0]
    assert set(state.params) == set(state.opt_state) == set(state.stats) == {"student"}
    method = BMTARD(ATTACK, temperature_rate=0.5, milestones=(0.3, 0.6, 0.9))
    context = make_context(method, epoch=9)  # of 10: all three milestones passed
    adversarial = context.batch.image

    @jax.jit
    def gradients_and_state(params):
        (_, aux), gradients = jax.value_and_grad(
            lambda params: method.loss(context.with_params(params), adversarial, jax.random.key(0)), has_aux=True
        )(params)
        return gradients, aux.state

    gradients, new = gradients_and_state({name: net.params for name, net in context.nets.items()})
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradients["student"])) > 1e-3
    for name in method.frozen:
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradients[name])) == 0.0
    assert np.abs(np.asarray(new.shared.temperatures) - 1).max() == pytest.approx(0.0005, rel=1e-3)


def test_the_balances_survive_a_resume(three_steps, tmp_path):
    """From a checkpoint after two steps, on four devices, to the third step of the uninterrupted run on one."""
    state = three_steps[0][2]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    restored = checkpoints.restore(1, state)
    checkpoints.close()
    resumed = run(BMTARD(ATTACK, temperature_rate=0.05), devices=4)
    resumed._state = parallel.replicate(restored, resumed.devices)
    resumed.step()
    one, four = three_steps[0][3], resumed.state
    assert distance((one.params, one.stats, one.method), (four.params, four.stats, four.method)) < 2e-6
    assert distance(one.method.shared.weights, state.method.shared.weights) > 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_rate": 1.5}, r"^weight_rate must be between 0 and 1"),
        ({"temperature_rate": -1.0}, r"^temperature_rate must be at least 0"),
        ({"milestones": (215,)}, r"^milestones must be above 0 and at most 1"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(InputError, match=message):
        methods.create("bmtard", **fields)
