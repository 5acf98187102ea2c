"""EMA, SWA and SEAT: averages by hand over steps and epochs, statistics made anew, composition, devices, checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import methods
from advjax.data import epoch_order
from advjax.errors import InputError
from advjax.methods import AWP, DYNAT, EMA, MAT, PGDAT, SEAT, SGLR, SWA, Natural, TrainingAttack
from advjax.models.layers import TrainMode
from advjax.training.checkpoints import Checkpoints
from tests.helpers import Run, ToyNet, distance
from tests.methods.by_hand import Inverted

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=2)
ON = (None, True)


def networks(run, name):
    return run.state.params[name], run.state.stats[name]


def test_without_memory_the_average_is_the_network():
    run, plain = Run(EMA(Natural(), decay=0.0), phase=ON).step(3), Run(Natural()).step(3)
    assert distance(networks(run, "model_ema"), networks(run, "model")) == 0.0
    assert distance(networks(run, "model"), networks(plain, "model")) == 0.0


def test_seat_by_hand_and_warm_up_from_its_start():
    """d = 1/10, 2/11, 3/12 from the first averaging step on; before it, the average is the network."""
    run = Run(SEAT(Natural()), phase=ON)
    copy = Run(EMA(Natural(), warmup=True, start=0.5, statistics="copy"), phase=(None, False)).step(2)
    assert distance(networks(copy, "model_ema"), networks(copy, "model")) == 0.0
    assert int(copy.state.method.shared[1]) == 0
    expected = networks(run, "model")
    for step in range(3):
        share = (step + 1) / (step + 10)
        run.step()
        expected = jax.tree.map(lambda a, b, d=share: d * a + (1 - d) * b, expected, networks(run, "model"))
        copy.step(1, ON)
    assert distance(networks(run, "model_ema"), expected) < 1e-6
    assert distance(networks(run, "model_ema"), networks(run, "model")) > 1e-4
    assert int(copy.state.method.shared[1]) == 3
    assert distance(copy.state.stats["model_ema"], copy.state.stats["model"]) == 0.0
    assert distance(copy.state.params["model_ema"], copy.state.params["model"]) > 1e-4


@pytest.fixture(scope="module")
def swa_runs():
    """Two epochs of three steps, the second one averaged twice over: (state after each epoch end) on one and four."""
    runs = {}
    for devices in (1, 4):
        run = Run(SWA(PGDAT(ATTACK)), devices=devices, phase=ON).step(3)
        first = run.state
        run.end_epoch()
        ended = run.state
        runs[devices] = run, first, ended, run.step(3).end_epoch().state
    return runs


def test_swa_is_the_mean_of_the_ends_of_epochs_with_statistics_of_its_own(swa_runs):
    run, first, ended, second = swa_runs[1]
    assert distance(ended.params["model_swa"], first.params["model"]) == 0.0
    for part in ("params", "stats", "opt_state"):
        assert distance(getattr(ended, part)["model"], getattr(first, part)["model"]) == 0.0
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first.params["model"], second.params["model"])
    assert distance(second.params["model_swa"], mean) < 1e-6
    # Every batch of the second epoch, the padded last one included, counts a third.
    means = []
    for rows, weight in zip(*epoch_order(0, 1, 22, 8), strict=True):
        x, variables = jnp.asarray(run.data.image[rows] / 255.0, jnp.float32), run.initial.stats["model"]
        _, moved = ToyNet().apply(
            {"params": mean, "batch_stats": variables}, x, train=TrainMode(jnp.asarray(weight)), mutable=["batch_stats"]
        )
        means.append(moved["batch_stats"]["BatchNorm_0"]["mean"] / 0.1)
    found = second.stats["model_swa"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(found, sum(means) / 3, rtol=1e-3, atol=1e-5)


def test_swa_on_one_device_equals_four(swa_runs):
    assert distance(swa_runs[1][-1], swa_runs[4][-1]) < 5e-6


def test_before_its_start_swa_copies_and_recomputes_nothing():
    run = Run(SWA(Natural()), phase=(None, False)).step(3).end_epoch()
    assert distance(networks(run, "model_swa"), networks(run, "model")) == 0.0
    assert int(run.state.method.shared[1]) == 0
    assert SWA(Natural()).recomputed((None, False)) == ()


def test_ema_of_epochs_moves_at_their_end_alone():
    run = Run(EMA(Natural(), decay=0.9, every="epoch"), phase=ON).step(3)
    assert distance(run.state.params["model_ema"], run.initial.params["model"]) == 0.0
    after = run.end_epoch().state
    for part in ("params", "stats"):
        initial, new = getattr(run.initial, part)["model"], getattr(after, part)["model"]
        expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, initial, new)
        assert distance(getattr(after, part)["model_ema"], expected) < 1e-6
    assert not EMA(Natural()).ends(ON)


def test_wrappers_compose_and_their_state_survives_a_checkpoint(tmp_path):
    """A memory inside two averages inside AWP: every state beside the others'."""
    method = methods.create("sglr_ema_awp_swa", ATTACK, base={"name": "pgd_at"}, ema_decay=0.5, awp_gamma=0.05)
    assert method == SWA(AWP(EMA(SGLR(PGDAT(ATTACK, clean_statistics=False)), decay=0.5), gamma=0.05))
    assert method.evaluated == ("model_swa", "model_ema", "model")
    phase = ((((None, "refine"), True), True), True)
    assert method.phase(9, 10) == phase
    one, four = (Run(method, devices=n, phase=phase, optimizer=optax.sgd(0.1)).step(3).end_epoch() for n in (1, 4))
    assert distance(one.state, four.state) < 5e-6
    plain = Run(AWP(method.base.base.base, gamma=0.05), phase=((None, "refine"), True), optimizer=optax.sgd(0.1)).step(
        3
    )
    assert distance(networks(one, "model"), networks(plain, "model")) < 1e-6
    memory = [jax.tree.leaves(run.state.method.per_example) for run in (one, plain)]
    assert distance(*memory) < 1e-6
    assert [int(leaf) for leaf in jax.tree.leaves(one.state.method.shared)] == [3, 1]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, one.state)
    restored = checkpoints.restore(1, jax.eval_shape(lambda: one.initial))
    checkpoints.close()
    assert distance(restored, one.state) == 0.0


def test_what_is_averaged_and_evaluated():
    assert EMA(DYNAT()).averaged == {"target_ema": "target"}
    assert EMA(DYNAT()).evaluated == ("target_ema", "target")
    assert EMA(MAT()).evaluated == ("peer0_ema", "peer1_ema")
    assert EMA(MAT()).interchangeable
    with pytest.raises(InputError, match=r"^base must not be averaged by ema already"):
        EMA(EMA(Natural()))
    with pytest.raises(InputError, match=r"^ema_decay must be at least 0 and below 1"):
        methods.create("natural_ema", ema_decay=1.0)
    assert methods.create("seat", Inverted()).base == PGDAT(Inverted(), clean_statistics=False)
