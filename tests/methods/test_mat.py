"""MAT for one norm: identities with adversarial training, joint against sequential, order and number of forwards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import methods
from advjax.errors import InputError
from advjax.methods import MAT, PGDAT, TrainingAttack
from tests.helpers import Run, ToyNet, distance
from tests.methods.by_hand import Inverted, first_batch, first_layer_mean, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=2)
AT = PGDAT(ATTACK, clean_statistics=False)


@pytest.fixture(scope="module")
def joint():
    """Two peers of different architectures, after three steps, the third batch with padding."""
    return Run(MAT(ATTACK), modules={"peer0": ToyNet(), "peer1": ToyNet(features=6)}).step(3)


@pytest.fixture(scope="module")
def at():
    """Adversarial training, after three steps; the clip would couple peers that shared an optimizer state."""
    return Run(AT, optimizer=optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9))).step(3)


def test_one_peer_is_adversarial_training_bit_for_bit(at):
    mat = Run(MAT(ATTACK, peers=1), optimizer=at.optimizer).step(3)
    assert distance(mat.state.params["peer0"], at.state.params["model"]) == 0.0
    assert distance(mat.state.stats["peer0"], at.state.stats["model"]) == 0.0
    assert distance(mat.state.opt_state["peer0"], at.state.opt_state["model"]) == 0.0
    assert mat.metrics["loss"] == at.metrics["loss"]  # of which the clip hides the size


def test_without_mutual_terms_peers_are_independent_adversarial_trainings(at):
    mat = Run(MAT(ATTACK, a=0.0, b=0.0), optimizer=at.optimizer).step(3)
    initial = {"params": mat.initial.params["peer1"], "batch_stats": mat.initial.stats["peer1"]}
    second = Run(AT, given={"model": initial}, optimizer=at.optimizer)
    second._steps = at._steps  # compiled already
    for name, alone in (("peer0", at), ("peer1", second.step(3))):
        assert distance(mat.state.params[name], alone.state.params["model"]) < 1e-6
        assert distance(mat.state.stats[name], alone.state.stats["model"]) < 1e-6
    assert distance(mat.initial.params["peer0"], mat.initial.params["peer1"]) > 0.1


def test_one_device_equals_four(joint):
    four = Run(joint.method, modules=joint.modules, devices=4).step(3)
    assert distance((joint.state.params, joint.state.stats), (four.state.params, four.state.stats)) < 2e-6
    for name, value in joint.metrics.items():
        np.testing.assert_allclose(four.metrics[name], value, rtol=1e-4, err_msg=name)


def test_what_is_reported(joint):
    peers = ["peer0", "peer1"]
    expected = {"loss", "robust_accuracy", "disagreement", "transfer_accuracy"}
    expected |= {f"{k}_loss" for k in peers} | {f"{k}_robust_accuracy" for k in peers}
    expected |= {f"{k}_on_{j}_accuracy" for k in peers for j in peers if j != k}
    assert set(joint.metrics) == expected
    np.testing.assert_allclose(joint.metrics["loss"], sum(joint.metrics[f"{k}_loss"] for k in peers), rtol=1e-5)
    cross = [joint.metrics[f"{k}_on_{j}_accuracy"] for k in peers for j in peers if j != k]
    np.testing.assert_allclose(joint.metrics["transfer_accuracy"], np.mean(cross), rtol=1e-5)


def test_sequential_peers_learn_from_the_updated_earlier_ones():
    """The first peer steps as in the joint form. The second learns from the first as it is after its step."""
    attack, optimizer = Inverted(), optax.sgd(0.5)
    joint, sequential = (Run(MAT(attack, sequential=s), optimizer=optimizer).step() for s in (False, True))
    assert distance(joint.state.params["peer0"], sequential.state.params["peer0"]) < 1e-6
    assert distance(joint.state.stats, sequential.state.stats) < 1e-6
    # A joint step with the first peer already where the sequential one has put it gives the second peer's step.
    given = {
        "peer0": {"params": sequential.state.params["peer0"], "batch_stats": sequential.initial.stats["peer0"]},
        "peer1": {"params": sequential.initial.params["peer1"], "batch_stats": sequential.initial.stats["peer1"]},
    }
    expected = Run(MAT(attack), optimizer=optimizer, given=given).step()
    assert distance(expected.state.params["peer1"], sequential.state.params["peer1"]) < 1e-6
    assert distance(joint.state.params["peer1"], sequential.state.params["peer1"]) > 1e-4
    assert {n for n in sequential.metrics if "peer1" in n} == {n for n in joint.metrics if "peer1" in n}


def test_all_examples_are_made_before_the_first_update():
    update_groups = []

    @dataclasses.dataclass(frozen=True)
    class Watched(MAT):
        def perturb(self, context, key):
            update_groups.append(context.group)
            return super().perturb(context, key)

    Run(Watched(Inverted(), sequential=True)).step()
    assert update_groups == [0]


@pytest.mark.parametrize(("coefficients", "concatenated"), [({"b": 0.0}, True), ({"a": 0.0, "b": 0.0}, False)])
def test_statistics_move_once_by_all_examples_that_a_peer_needs(coefficients, concatenated):
    """Examples 1 - x and x: running = 0.9 old + 0.1 of both concatenated, or of the own alone."""

    @dataclasses.dataclass(frozen=True)
    class Different(MAT):
        def perturb(self, context, key):
            x = context.batch.image
            return {"peer0": 1.0 - x, "peer1": x}, {}

    run = Run(Different(**coefficients), optimizer=optax.sgd(0.0)).step()
    x = first_batch(run)
    for name, own in (("peer0", 1 - x), ("peer1", x)):
        needed = jnp.concatenate([1 - x, x]) if concatenated else own
        found = run.state.stats[name]["BatchNorm_0"]["mean"]
        np.testing.assert_allclose(
            found, 0.1 * first_layer_mean(run.initial.params[name], needed), rtol=1e-4, atol=1e-7
        )


def test_a_peer_gets_no_gradient_as_a_teacher():
    """The gradient of one peer's loss alone, with respect to all: only its own is not zero."""
    method = MAT(ATTACK, peers=3, sequential=True, a=0.3, b=0.7, c=0.6, temperature=2.0)
    context = dataclasses.replace(make_context(method), group=1)
    adversarial = {name: context.batch.image for name in context.nets}

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: method.loss(context.with_params(p), adversarial, jax.random.key(0))[0])(params)

    gradients = gradient({name: net.params for name, net in context.nets.items()})
    largest = {name: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(g)) for name, g in gradients.items()}
    assert largest["peer1"] > 1e-3
    assert largest["peer0"] == largest["peer2"] == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peers": 0}, r"^peers must be at least 1"),
        ({"a": 1.5}, r"^a must be between 0 and 1"),
        ({"b": -1.0}, r"^b must be at least 0"),
        ({"temperature": 0.0}, r"^temperature must be above 0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(InputError, match=message):
        methods.create("mat", **fields)
