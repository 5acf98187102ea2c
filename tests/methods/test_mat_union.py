"""MAT over a union of norms: what becomes of it without mutual terms, attacks by norm, devices."""

import dataclasses

import numpy as np
import pytest

from advjax import methods
from advjax.errors import InputError
from advjax.methods import PGDAT, MATMutualUnion, MATUnion, TrainingAttack
from advjax.methods.norms import Radius
from tests.helpers import Run, distance

L2, L1 = Radius(0.4, 0.2), Radius(1.5, 0.5)
ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=2, start="none")


@pytest.fixture(scope="module", params=["figure", "exchange"])
def run(request):
    """All learn from all that their form has."""
    return Run(MATUnion(ATTACK, l2=L2, l1=L1, form=request.param, a_specialist=0.4)).step(3)


def test_one_device_equals_four(run):
    four = Run(run.method, devices=4).step(3)
    assert distance((run.state.params, run.state.stats), (four.state.params, four.state.stats)) < 2e-6
    for name, value in run.metrics.items():
        np.testing.assert_allclose(four.metrics[name], value, rtol=1e-4, err_msg=name)
    networks = {"generalist", "specialist_l1", "specialist_l2", "specialist_linf"}
    assert {f"{name}_loss" for name in networks} <= set(run.metrics)
    assert {f"generalist_{norm}_accuracy" for norm in ("l1", "l2", "linf")} <= set(run.metrics)
    figure = run.method.form == "figure"
    disagreement = {"disagreement"} if figure else {f"{norm}_disagreement" for norm in ("l1", "l2", "linf")}
    assert disagreement <= set(run.metrics)
    assert all((f"{name}_clean_accuracy" in run.metrics) == figure for name in networks)
    assert run.method.evaluated == ("generalist",)


@pytest.fixture(scope="module")
def alone():
    """Nobody learns from anybody."""
    return Run(MATUnion(ATTACK, l2=L2, l1=L1, a=0.0)).step(3)


def test_the_forms_differ_in_the_teaching_alone(alone):
    exchange = Run(dataclasses.replace(alone.method, form="exchange", b=0.0)).step(3)
    assert distance((exchange.state.params, exchange.state.stats), (alone.state.params, alone.state.stats)) < 1e-6
    assert set(exchange.metrics) == set(alone.metrics)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_specialist_alone_is_adversarial_training_in_its_norm(alone, norm):
    """With a_S = 0 and a = 0 it forwards nothing but its own examples."""
    name = f"specialist_{norm}"
    initial = {"params": alone.initial.params[name], "batch_stats": alone.initial.stats[name]}
    radius = {"l2": {"eps": 0.4, "step_size": 0.2}, "linf": {}}[norm]
    attack = dataclasses.replace(ATTACK, norm=norm, **radius)
    at = Run(PGDAT(attack, clean_statistics=False), given={"model": initial}).step(3)
    assert distance(alone.state.params[name], at.state.params["model"]) < 1e-6
    assert distance(alone.state.stats[name], at.state.stats["model"]) < 1e-6


def test_mutual_peers_attack_in_their_own_norms():
    method = methods.create("mat_mutual_union", attack=ATTACK, l2={"eps": 0.4, "step_size": 0.2})
    assert method.trained == method.evaluated == ("peer_l1", "peer_l2", "peer_linf")
    assert {name: method.attack_of(name).norm for name in method.trained} == {
        "peer_l1": "l1",
        "peer_l2": "l2",
        "peer_linf": "linf",
    }
    assert (method.attack_of("peer_l2").eps, method.attack_of("peer_l1").eps) == (0.4, "12")
    assert (method.form, method.peers, method.update_groups) == ("figure", 3, (method.trained,))
    with pytest.raises(InputError, match=r"^peers must be 3"):
        MATMutualUnion(ATTACK, peers=2)


def test_bad_fields():
    with pytest.raises(InputError, match=r"^a_specialist must be at least 0"):
        MATUnion(ATTACK, a_specialist=-1.0)
    for method in (MATUnion, MATMutualUnion):
        with pytest.raises(InputError, match=r"^c must be 0.5, it is 0: the form figure has no use for it"):
            method(ATTACK, c=0.0)
    with pytest.raises(InputError, match=r"^attack must have the norm linf"):
        MATUnion(dataclasses.replace(ATTACK, norm="l2"))
