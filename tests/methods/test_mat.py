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
FORMS = pytest.mark.parametrize("form", ["figure", "exchange"])


@pytest.fixture(scope="module", params=["figure", "exchange"])
def joint(request):
    """Two peers of different architectures, after three steps, the third batch with padding."""
    return Run(MAT(ATTACK, form=request.param), modules={"peer0": ToyNet(), "peer1": ToyNet(features=6)}).step(3)


@pytest.fixture(scope="module")
def at():
    """Adversarial training, after three steps; the clip would couple peers that shared an optimizer state."""
    return Run(AT, optimizer=optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9))).step(3)


@FORMS
def test_one_peer_is_adversarial_training_bit_for_bit(at, form):
    mat = Run(MAT(ATTACK, peers=1, form=form), optimizer=at.optimizer).step(3)
    assert distance(mat.state.params["peer0"], at.state.params["model"]) == 0.0
    assert distance(mat.state.stats["peer0"], at.state.stats["model"]) == 0.0
    assert distance(mat.state.opt_state["peer0"], at.state.opt_state["model"]) == 0.0
    assert mat.metrics["loss"] == at.metrics["loss"]  # of which the clip hides the size
    assert "clean_accuracy" not in mat.metrics


@pytest.mark.parametrize("fields", [{"form": "figure", "a": 0.0}, {"form": "exchange", "a": 0.0, "b": 0.0}])
def test_without_mutual_terms_peers_are_independent_adversarial_trainings(at, fields):
    mat = Run(MAT(ATTACK, **fields), optimizer=at.optimizer).step(3)
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
    peers, kind = ["peer0", "peer1"], {"figure": "clean", "exchange": "transfer"}[joint.method.form]
    expected = {"loss", "robust_accuracy", "disagreement", f"{kind}_accuracy"}
    expected |= {f"{k}_loss" for k in peers} | {f"{k}_robust_accuracy" for k in peers}
    other = ["peer0_clean", "peer1_clean"] if kind == "clean" else ["peer0_on_peer1", "peer1_on_peer0"]
    assert set(joint.metrics) == expected | {f"{name}_accuracy" for name in other}
    np.testing.assert_allclose(joint.metrics["loss"], sum(joint.metrics[f"{k}_loss"] for k in peers), rtol=1e-5)
    mean = np.mean([joint.metrics[f"{name}_accuracy"] for name in other])
    np.testing.assert_allclose(joint.metrics[f"{kind}_accuracy"], mean, rtol=1e-5)


@FORMS
def test_sequential_peers_learn_from_the_updated_earlier_ones(form):
    """The first peer steps as in the joint form. The second learns from the first as it is after its step."""
    attack, optimizer = Inverted(), optax.sgd(0.5)
    joint, sequential = (Run(MAT(attack, form=form, sequential=s), optimizer=optimizer).step() for s in (False, True))
    assert distance(joint.state.params["peer0"], sequential.state.params["peer0"]) < 1e-6
    assert distance(joint.state.stats, sequential.state.stats) < 1e-6
    # A joint step with the first peer already where the sequential one has put it gives the second peer's step.
    given = {
        "peer0": {"params": sequential.state.params["peer0"], "batch_stats": sequential.initial.stats["peer0"]},
        "peer1": {"params": sequential.initial.params["peer1"], "batch_stats": sequential.initial.stats["peer1"]},
    }
    expected = Run(joint.method, optimizer=optimizer, given=given)
    expected._steps = joint._steps  # compiled already
    expected.step()
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


@pytest.mark.parametrize("fields", [{"form": "figure"}, {"form": "exchange", "b": 0.0}])
def test_statistics_move_once_by_every_forward_in_order(fields):
    """Examples 1 - x and x/2. Figure: running = 0.81 old + 0.09 own + 0.10 clean; exchange: 0.9 old + 0.1 of both."""

    @dataclasses.dataclass(frozen=True)
    class Different(MAT):
        def perturb(self, context, key):
            x = context.batch.image
            return {"peer0": 1.0 - x, "peer1": 0.5 * x}, {}

    run = Run(Different(**fields), optimizer=optax.sgd(0.0)).step()
    x = first_batch(run)
    for name, own in (("peer0", 1 - x), ("peer1", 0.5 * x)):
        seen = (own, x) if run.method.form == "figure" else (jnp.concatenate([1 - x, 0.5 * x]),)
        running = 0.0
        for batch in seen:
            running = 0.9 * running + 0.1 * first_layer_mean(run.initial.params[name], batch)
        found = run.state.stats[name]["BatchNorm_0"]["mean"]
        np.testing.assert_allclose(found, running, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("fields", [{"form": "figure"}, {"form": "exchange", "b": 0.7, "c": 0.6}])
def test_a_peer_gets_no_gradient_as_a_teacher(fields):
    """The gradient of one peer's loss alone, with respect to all: only its own is not zero."""
    method = MAT(ATTACK, peers=3, sequential=True, a=0.3, temperature=2.0, **fields)
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
        ({"form": "both"}, r"^form must be a form, it is 'both'; allowed: exchange, figure$"),
        ({"b": 0.0}, r"^b must be 1, it is 0: the form figure has no use for it, the form exchange has$"),
        ({"c": 0.25}, r"^c must be 0.5, it is 0.25: the form figure has no use for it"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(InputError, match=message):
        methods.create("mat", **fields)
