"""The step as a machine: rows of state, update_groups, phases, averages, randomness, transfers, compilations, precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import compiling, losses, models, parallel
from advjax.data import epoch_order
from advjax.methods import Aux, Method, Natural, State
from advjax.models.layers import TrainMode
from advjax.training.step import Data, make_indexed_step, make_step
from tests.helpers import CLASSES, SHAPE, Run, ToyNet, distance, toy_data


@dataclasses.dataclass(frozen=True)
class Everything(Method):
    """Uses all that the contract carries: two networks in two groups, an average, a frozen one, rows, shared state."""

    trained = ("first", "second")
    frozen = ("teacher",)
    averaged = {"mean": "first"}  # noqa: RUF012
    update_groups = (("first",), ("second",))

    def init_state(self, labels, num_classes):
        rows = {"seen": jnp.zeros(len(labels)), "label": jnp.asarray(labels)}
        return State({"updates": jnp.zeros(()), "loss": jnp.zeros(())}, rows)

    def phase(self, epoch, epochs):
        return "late" if epoch >= 1 else "early"

    def perturb(self, context, key):
        return context.batch.image + (0.1 if context.phase == "late" else 0.0), {}

    def loss(self, context, adversarial, key):
        name = self.update_groups[context.group][0]
        logits, net = context.nets[name].train(adversarial)
        teacher = context.nets["teacher"].logits_fn(adversarial)
        loss = context.mean(losses.cross_entropy(logits, context.batch.label) + losses.kl(teacher, logits))
        other = context.nets["first"].logits_fn(context.batch.image)  # already updated in the second round
        rows = {"seen": context.state.per_example["seen"] + 1, "label": context.state.per_example["label"]}
        shared = {"updates": context.state.shared["updates"] + 1, "loss": jax.lax.stop_gradient(loss)}
        metrics = {"late": context.metric(jnp.float32(context.phase == "late")), "logit": context.metric(other[:, 0])}
        return loss, Aux({name: net}, State(shared, rows), metrics)

    def after_update(self, context, adversarial):
        mean, first = context.nets["mean"], context.nets["first"]
        average = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, mean.params, first.params)
        return {"mean": mean.with_params(average)}


@pytest.fixture(scope="module")
def runs():
    teacher = models.init(ToyNet(), jax.random.key(9), (4, 4, 1))
    return {
        n: Run(Everything(), devices=n, frozen={"teacher": teacher}).step(2, "early").step(2, "late") for n in (1, 4)
    }


def test_one_device_equals_four_in_everything(runs):
    assert distance(runs[1].state, runs[4].state) < 5e-6


def test_rows_are_written_for_real_examples_and_not_for_padding(runs):
    """4 steps of 8 over 22 examples: the first epoch sees each once (its last batch padded), then 8 a second time."""
    for run in runs.values():
        index, _ = epoch_order(0, 1, 22, 8)
        expected = np.full(22, 2.0)
        expected[index[0]] += 2.0
        np.testing.assert_array_equal(run.state.method.per_example["seen"], expected)
        np.testing.assert_array_equal(run.state.method.per_example["label"], run.data.label)


def test_shared_state_passes_from_round_to_round(runs):
    assert float(runs[4].state.method.shared["updates"]) == 8


def test_phases_change_the_program(runs):
    assert runs[1].metrics["late"] == 1.0


def test_averages_follow_the_updated_parameters(runs):
    teacher = models.init(ToyNet(), jax.random.key(9), (4, 4, 1))
    run = Run(Everything(), frozen={"teacher": teacher}).step(1, "early")
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, run.initial.params["first"], run.state.params["first"])
    assert distance(run.state.params["mean"], expected) < 1e-7
    assert distance(run.initial.params["mean"], run.initial.params["first"]) == 0


def test_networks_start_differently_and_seeds_matter():
    one, other = Run(Natural(), seed=0), Run(Natural(), seed=1)
    assert distance(one.initial.params, other.initial.params) > 0.01
    assert distance(one.initial.params, Run(Natural(), seed=0).initial.params) == 0


def test_the_step_needs_nothing_from_the_host():
    run = Run(Natural(), devices=4).step()
    frozen, data = parallel.replicate((run.frozen, run.rows), run.devices)
    order = run.order()
    step, state = run._steps[None], run._state
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, metrics = step(state, frozen, data, order)
    assert jax.device_get(metrics)["loss"][1] > 0


def test_one_compilation_for_all_batches_of_a_phase():
    traces = []

    @dataclasses.dataclass(frozen=True)
    class Counted(Natural):
        def loss(self, context, adversarial, key):
            traces.append(context.phase)
            return super().loss(context, adversarial, key)

    Run(Counted()).step(5)  # more than an epoch, the padded batch among them
    once = len(traces)
    assert once >= 1
    traces.clear()
    run = Run(Counted()).step(1)
    assert len(traces) == once
    run.step(4)
    assert len(traces) == once


def test_padding_changes_nothing():
    """A batch of 6 padded to 8 gives the step that the 6 alone give."""
    data = Data(*(array[:6] for array in toy_data()[:2]))
    padded, exact = Run(Natural(), data=data, batch_size=8).step(), Run(Natural(), data=data, batch_size=6).step()
    assert distance((padded.state.params, padded.state.stats), (exact.state.params, exact.state.stats)) < 1e-6
    np.testing.assert_allclose(padded.metrics["loss"], exact.metrics["loss"], rtol=1e-6)


def test_batch_norm_per_device_is_another_thing():
    shared, apart = Run(Natural(), devices=4).step(), Run(Natural(), devices=4, batch_norm="device").step()
    assert distance(shared.state.params, apart.state.params) > 1e-5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(apart.state.stats))


def test_bfloat16_computes_low_and_keeps_high():
    module = models.create("tiny_cnn", CLASSES, dtype="bfloat16")
    variables = models.init(module, jax.random.key(0), (4, 4, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    x = jnp.linspace(0, 1, 64).reshape(4, 4, 4, 1)
    collections = ["batch_stats", "intermediates"]
    logits, updated = module.apply(variables, x, train=TrainMode(), mutable=collections, capture_intermediates=True)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated["batch_stats"])} == {jnp.dtype("float32")}
    assert updated["intermediates"]["conv1"]["__call__"][0].dtype == jnp.bfloat16
    low = Run(Natural(), modules={"model": module}).step(2)
    high = Run(Natural(), modules={"model": models.create("tiny_cnn", CLASSES)}).step(2)
    assert {leaf.dtype for leaf in jax.tree.leaves(low.state.params)} == {np.dtype("float32")}
    assert 0 < distance(low.state.params, high.state.params) < 0.05


def test_gradient_of_the_global_mean_is_that_of_one_device():
    """The rule that the step relies on: psum in the loss, pmean of the gradients."""
    x = jnp.arange(8.0).reshape(4, 2)

    def per_device(w, x):
        def loss(w):
            total = jax.lax.psum(jnp.sum((w * x) ** 2), parallel.AXIS)
            return total / 8

        return jax.lax.pmean(jax.grad(loss)(w), parallel.AXIS)

    gradient = parallel.map_step(per_device, jax.devices()[:4])(jnp.asarray(3.0), x)
    np.testing.assert_allclose(gradient, float(2 * 3.0 * jnp.sum(x**2) / 8), rtol=1e-6)


def test_both_mappings_make_the_same_steps(runs):
    teacher = models.init(ToyNet(), jax.random.key(9), (4, 4, 1))
    mapped = Run(Everything(), devices=4, frozen={"teacher": teacher}, mapping="shard_map").step(2, "early")
    assert distance(mapped.step(2, "late").state, runs[4].state) == 0.0


def test_the_state_is_donated_and_passed_once():
    """Not a copy for every device in the program's signature, and none of the old state left behind."""
    run = Run(Natural(), devices=4).step()
    before = run._state
    run.step()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    initial, after = jax.tree.leaves(run.initial.params), jax.tree.leaves(run._state.params)
    assert [leaf.shape for leaf in after] == [leaf.shape for leaf in initial]


@pytest.mark.parametrize("products", ["default", "highest"])
def test_accelerators_multiply_as_the_config_says(products):
    run = Run(Natural(), modules={"model": models.create("tiny_cnn", CLASSES, width=4)})
    config = dataclasses.replace(run.config, products=products)
    step = make_step(run.method, run.modules, run.optimizer, config, None)
    program = parallel.map_step(make_indexed_step(step, config, SHAPE), run.devices)
    with compiling.target("tpu"):
        traced = str(jax.make_jaxpr(program)(run.state, {}, run.rows, run.order()))
    assert ("Precision.HIGHEST" in traced) == (products == "highest")
