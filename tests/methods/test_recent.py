"""TE, HAT, ReBAT, RPAT, FAT, ST-AT, DKL, DM, Consistency-AT and RAMP: identities, order of forwards, devices, states."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import losses, models
from advjax.errors import InputError
from advjax.methods import (
    DKL,
    DM,
    FAT,
    FATTRADES,
    HAT,
    PGDAT,
    RAMP,
    RPAT,
    SGLR,
    STAT,
    TE,
    TRADES,
    ConsistencyAT,
    MATUnion,
    ReBAT,
    SingleNorm,
    TrainingAttack,
)
from advjax.methods.ramp import fused
from advjax.training.checkpoints import Checkpoints
from advjax.training.step import make_step
from tests.helpers import CLASSES, SHAPE, Run, ToyNet, distance
from tests.methods.by_hand import Inverted, first_layer_mean, loss_and_gradients, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=3)
FROZEN = dataclasses.replace(ATTACK, statistics="frozen")
AT = PGDAT(ATTACK, clean_statistics=False)
KEY = jax.random.key(1)

METHODS = {
    "te": (TE(ATTACK), "ensemble"),
    "hat": (HAT(ATTACK), None),
    "rebat": (ReBAT(ATTACK, late_steps=4, late_eps=0.2), (True, True)),
    "rpat": (RPAT(AT), (None, None)),
    "fat": (FAT(ATTACK), None),
    "st_at": (STAT(FROZEN), None),
    "dkl": (DKL(ATTACK), None),
    "dm": (DM(FROZEN), None),
    "consistency_at": (ConsistencyAT(ATTACK), None),
    "ramp": (RAMP(ATTACK, l1_eps=1.0), None),
}


@pytest.fixture(scope="module")
def runs():
    """name, devices -> a run of two steps and, where there is one, an epoch's end; each is made once."""
    made = {}

    def run(name, devices):
        if (name, devices) not in made:
            method, phase = METHODS[name]
            frozen = {each: models.init(ToyNet(), jax.random.key(9), SHAPE) for each in method.frozen}
            new = Run(method, devices=devices, phase=phase, batch_size=12, frozen=frozen, epochs=10).step(2)
            made[name, devices] = new.end_epoch() if method.ends(phase) else new
        return made[name, devices]

    return run


@pytest.mark.parametrize("name", METHODS)
def test_one_device_equals_four(runs, name):
    # 22 examples in batches of 12: the second batch has two rows of padding.
    one, four = runs(name, 1), runs(name, 4)
    assert distance(one.state, four.state) < 2e-5
    assert distance(one.state.params["model"], one.initial.params["model"]) > 1e-3
    for metric, value in one.metrics.items():
        np.testing.assert_allclose(four.metrics[metric], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["te", "dkl", "ramp"])
def test_the_state_survives_a_checkpoint(runs, name, tmp_path):
    run = runs(name, 1)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, run.state)
    restored = checkpoints.restore(1, jax.eval_shape(lambda: run.initial))
    checkpoints.close()
    assert distance(restored, run.state) == 0.0


def chain(net, images, keep=0.9):
    """The first BatchNorm's running mean after training forwards of these images."""
    mean = net.stats["BatchNorm_0"]["mean"]
    for x in images:
        mean = keep * mean + (1 - keep) * first_layer_mean(net.params, x)
    return mean


def both(x, other):
    return jnp.concatenate([x, other])


@pytest.mark.parametrize(
    ("method", "phase", "order", "keep"),
    [
        (TE(Inverted()), "ensemble", lambda x, v: [1 - x], 0.9),
        (HAT(Inverted()), None, lambda x, v: [x, 1 - x, 2 - 3 * x], 0.9),
        (ReBAT(Inverted()), (True, False), lambda x, v: [1 - x], 0.9),
        (RPAT(PGDAT(Inverted())), (None, None), lambda x, v: [1 - x, 0 * x + 0.5, x], 0.9),
        (RPAT(TRADES(Inverted())), (None, None), lambda x, v: [x, 1 - x, x, 0 * x + 0.5], 0.9),
        (DKL(Inverted()), None, lambda x, v: [1 - x, x], 0.9),
        (DM(Inverted()), None, lambda x, v: [x, 1 - x], 0.99),
        (ConsistencyAT(Inverted()), None, lambda x, v: [both(1 - x, 1 - v)], 0.9),
    ],
    ids=lambda value: type(value).__name__,
)
def test_order_of_forwards(method, phase, order, keep):
    context = dataclasses.replace(make_context(method, phase=phase), step=1)
    adversarial, nets = method.perturb(context, KEY)
    _, _, aux = loss_and_gradients(method, context.with_nets(nets), adversarial)
    views = (*context.batch.views, None)
    expected = chain(context.nets["model"], order(context.batch.image, views[0]), keep)
    np.testing.assert_allclose(aux.nets["model"].stats["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("method", "moved"), [(STAT(FROZEN), 2), (RAMP(ATTACK, l1_eps=1.0), 3)])
def test_order_of_forwards_of_attacks_that_make_several_examples(method, moved):
    context = make_context(method)
    adversarial, nets = method.perturb(context, KEY)
    assert nets == {}
    _, _, aux = loss_and_gradients(method, context, adversarial)
    x = context.batch.image
    images = {2: lambda a: [x, a["adversarial"]], 3: lambda a: [a["l1"], a["linf"], a["worse"]]}[moved](adversarial)
    expected = chain(context.nets["model"], images)
    np.testing.assert_allclose(aux.nets["model"].stats["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "phase", "base"),
    [
        (TE(ATTACK), "plain", AT),
        (HAT(ATTACK, gamma=0.0), None, TRADES(ATTACK, beta=2.5)),
        (RPAT(AT, lam=0.0), (None, None), AT),
        (FAT(ATTACK, tau=(3,), until=(), noise=0.0), None, AT),
        (FATTRADES(ATTACK, tau=(3,), until=()), None, TRADES(ATTACK)),
        (DM(ATTACK, label_smoothing=0.0), None, TRADES(ATTACK, beta=5.0)),
        (ConsistencyAT(ATTACK, lam=0.0), None, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_without_its_own_part_a_method_is_its_base(method, phase, base):
    context = make_context(method, phase=phase)
    adversarial, nets = method.perturb(context, KEY)
    value, gradients, _ = loss_and_gradients(method, context.with_nets(nets), adversarial)
    if base is None:  # two views in one batch: PGD-AT on twice as many images
        x = jnp.concatenate([context.batch.image, *context.batch.views])
        net = dataclasses.replace(context.nets["model"], weight=None)
        labels = jnp.tile(context.batch.label, 2)
        expected = jnp.mean(losses.cross_entropy(net.train(adversarial)[0], labels))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert jnp.max(jnp.abs(adversarial - x)) <= 0.1 + 1e-6
        assert distance(adversarial[:8], AT.perturb(dataclasses.replace(context), jax.random.fold_in(KEY, 0))[0]) < 1e-6
        return
    plain = make_context(base)
    x_adv = base.perturb(plain, KEY)[0]
    assert distance(adversarial[0] if isinstance(method, TE) else adversarial, x_adv) < 1e-6
    expected = loss_and_gradients(base, plain, x_adv)
    assert distance((value, gradients), expected[:2]) < 1e-6


def test_rebat_before_its_epoch_is_pgd_at_to_the_bit_and_its_average_a_copy():
    rebat, at = Run(ReBAT(ATTACK), phase=(False, False)).step(3), Run(PGDAT(ATTACK)).step(3)
    for part in ("params", "stats", "opt_state"):
        assert distance(getattr(rebat.state, part)["model"], getattr(at.state, part)["model"]) == 0.0
    assert distance(rebat.state.params["average"], rebat.state.params["model"]) == 0.0
    assert distance(rebat.state.stats["average"], rebat.state.stats["model"]) == 0.0
    phases = [ReBAT(late_steps=12).phase(epoch, 200) for epoch in (99, 100, 104, 105)]
    assert phases == [(False, False), (False, True), (False, True), (True, True)]
    assert ReBAT().phase(199, 200) == (True, False)


def test_rebats_average_moves_after_the_clean_forward(runs):
    """v = 0.999^2 w_0 + 0.001 (0.999 w_1 + w_2), statistics too."""
    run = runs("rebat", 1)
    method, phase = METHODS["rebat"]
    first = Run(method, phase=phase, batch_size=12, epochs=10)
    first._steps = run._steps
    first.step()
    for part in ("params", "stats"):
        w0, w1, w2 = (getattr(state, part)["model"] for state in (run.initial, first.state, run.state))
        expected = jax.tree.map(lambda a, b, c: 0.999 * (0.999 * a + 0.001 * b) + 0.001 * c, w0, w1, w2)
        assert distance(getattr(run.state, part)["average"], expected) < 1e-6


def test_te_by_hand_weight_and_memory(runs):
    """w: 300 exp(-5) at epoch 90 of 200, 300 from 150 on, counted from 1; rows seen once hold 0.1 p."""
    contexts = [dataclasses.replace(make_context(TE(), epoch=epoch), epochs=200) for epoch in (89, 119, 149, 199)]
    found = [float(TE().w(context)) for context in contexts]
    np.testing.assert_allclose(found, [300 * np.exp(-5), 300 * np.exp(-1.25), 300, 300], rtol=1e-5)
    memory = runs("te", 4).state.method.per_example
    np.testing.assert_allclose(memory.sum(-1), 0.1, rtol=1e-5)
    # Inside SGLR both memories move.
    method = SGLR(TE(ATTACK), one_more="clean")
    context = make_context(method, phase=("ensemble", "refine"))
    _, _, aux = loss_and_gradients(method, context, method.perturb(context, KEY)[0])
    ensemble, memory = aux.state.per_example
    np.testing.assert_allclose(ensemble.sum(-1), 0.1, rtol=1e-5)
    np.testing.assert_allclose(memory.sum(-1), 1.0, rtol=1e-5)


def test_fat_stops_at_the_first_wrong_point_after_tau_others():
    """Every image against a loop of its own; tau by epoch: 0 to 50, 1 to 90, then 2, of 120."""
    attack = dataclasses.replace(ATTACK, steps=6, step_size=0.02)
    context = make_context(FAT(), batch=16)
    net, x, y = context.nets["model"], context.batch.image, context.batch.label
    kept = []
    for tau in range(3):
        found = FAT(attack, tau=(tau,), until=(), noise=0.0).perturb(context, KEY)[0]
        point, stopped = attack.start_of(context, KEY), [None] * 16
        seen = np.zeros(16, int)
        for _ in range(6):
            wrong = np.asarray(losses.correct(net.logits_fn(point), y)) == 0
            for i in np.flatnonzero(wrong):
                if stopped[i] is None and seen[i] == tau:
                    stopped[i] = point[i]
                seen[i] += 1
            slope = jax.grad(lambda x_adv: jnp.sum(losses.cross_entropy(net.logits_fn(x_adv), y)))(point)
            point = jnp.clip(x + jnp.clip(point + 0.02 * jnp.sign(slope) - x, -0.1, 0.1), 0, 1)
        expected = jnp.stack([point[i] if each is None else each for i, each in enumerate(stopped)])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        kept.append(sum(each is not None for each in stopped))
    assert 16 > kept[0] >= kept[1] >= kept[2] > 0
    from advjax.methods.fat import patience

    contexts = [dataclasses.replace(make_context(FAT(), epoch=epoch), epochs=120) for epoch in (49, 50, 89, 90)]
    assert [int(patience(FAT(), each)) for each in contexts] == [0, 1, 1, 2]


def test_frozen_attacks_see_the_batch_and_move_nothing():
    for method in (DM(FROZEN), STAT(FROZEN)):
        context = make_context(method)
        net = context.nets["model"]
        shifted = context.with_nets({"model": net.with_stats(jax.tree.map(lambda s: 3 * s, net.stats))})
        (found, nets), (again, _) = (method.perturb(each, KEY) for each in (context, shifted))
        assert distance(found, again) == 0.0
        assert all(distance(each.stats, net.stats) == 0.0 for each in nets.values())


def test_dm_replaces_the_statistics_in_its_first_step():
    context = make_context(DM(Inverted()))
    _, _, aux = loss_and_gradients(DM(Inverted()), context, 1 - context.batch.image)
    expected = first_layer_mean(context.nets["model"].params, 1 - context.batch.image)
    np.testing.assert_allclose(aux.nets["model"].stats["BatchNorm_0"]["mean"], expected, rtol=1e-5)


@pytest.mark.parametrize(("method", "norm"), [(DKL, 0), (PGDAT, 2), (FAT, 0), (STAT, 0), (SingleNorm, 2)])
def test_radius_and_step_grow_over_the_warm_up(method, norm):
    name = "l2" if norm else "linf"
    attack = dataclasses.replace(ATTACK, norm=name, start="none", step_size=0.06, steps=2, warmup=0.5)
    assert DKL().attack.warmup == 1.0
    context, reached, stepped = make_context(method(attack)), [], []
    for epoch in (0, 3, 4, 9):
        now = dataclasses.replace(context, epoch=jnp.asarray(epoch))
        for steps, found in ((2, reached), (1, stepped)):
            made = method(dataclasses.replace(attack, steps=steps)).perturb(now, KEY)[0]
            moved = (made["adversarial"] if isinstance(made, dict) else made) - context.batch.image
            length = jnp.sqrt(jnp.sum(moved**2, (1, 2, 3))) if norm else jnp.abs(moved)
            found.append(float(jnp.max(length)))
    np.testing.assert_allclose(reached, [0.02, 0.08, 0.1, 0.1], rtol=1e-4)
    if method is not FAT:  # its steps are noisy
        np.testing.assert_allclose(stepped, [0.012, 0.048, 0.06, 0.06], rtol=1e-4)


def test_dkl_makes_its_table_at_an_epochs_end(runs):
    ended = runs("dkl", 4).state.method.shared
    assert not ended["sums"].any()
    assert not ended["counts"].any()
    np.testing.assert_allclose(ended["table"].sum(-1), 1.0, rtol=1e-5)
    # With the weights at rest the table is that of the class means over the epoch, ten rows of padding left out.
    run = Run(DKL(Inverted()), optimizer=optax.sgd(0.0), batch_size=32, epochs=10).step().end_epoch()
    x = jnp.asarray(run.data.image / 255.0, jnp.float32)
    variables = {"params": run.initial.params["model"], "batch_stats": run.initial.stats["model"]}
    p = jax.nn.softmax(ToyNet().apply(variables, x, train=True, mutable=["batch_stats"])[0] / 4.0)
    expected = jnp.stack([p[run.data.label == label].mean(0) for label in range(CLASSES)])
    np.testing.assert_allclose(run.state.method.shared["table"], expected, rtol=1e-4)


def test_ramp_fuses_networks_that_started_as_one(runs):
    run = runs("ramp", 1)
    assert distance(run.initial.params["model"], run.initial.params["natural"]) == 0.0
    for name in ("start", "natural"):
        assert distance(run.state.params[name], run.state.params["model"]) == 0.0
        assert distance(run.state.stats[name], run.state.stats["model"]) == 0.0
    w0, a, n = jnp.zeros(2), jnp.asarray([2.0, 0.0]), jnp.asarray([3.0, 4.0])
    np.testing.assert_allclose(fused(w0, a, n, 0.5), [1 + 0.5 * 0.6 * 3, 0.5 * 0.6 * 4], rtol=1e-6)
    np.testing.assert_allclose(fused(w0, a, -n, 0.5), [1.0, 0.0], rtol=1e-6)
    assert RAMP(share=0.0).trained == ("model",)
    assert not RAMP(share=0.0).ends(None)


def test_views_are_drawn_apart():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(ConsistencyAT):
        def loss(self, context, adversarial, key):
            value, aux = super().loss(context, adversarial, key)
            (other,) = context.batch.views
            apart = jnp.max(jnp.abs(context.batch.image - other), (1, 2, 3)) > 0
            seen.append(other.shape)
            return value, aux._replace(metrics={"apart": context.metric(apart.astype(jnp.float32))})

    run = Run(Watched(Inverted()))
    run.config = dataclasses.replace(run.config, augment="flip")
    assert 0.0 < run.step().metrics["apart"] < 1.0
    assert seen[0] == (8, *SHAPE)
    with pytest.raises(InputError, match=r"^batch.views must be 1 beside the image"):
        jax.eval_shape(
            make_step(run.method, run.modules, run.optimizer, run.config, None),
            run.initial,
            {},
            make_context(AT).batch,
            jnp.asarray(0),
        )


def test_what_cannot_be_is_named():
    for wrong, match in (
        (lambda: RPAT(MATUnion()), r"^base must be a method of one network"),
        (lambda: FAT(FROZEN), r"^attack must be linf or l2 on running"),
        (lambda: FAT(tau=(0, 1)), r"^tau must be one number per part, 3"),
        (lambda: STAT(dataclasses.replace(ATTACK, statistics="batch")), r"^attack must be linf or l2 on frozen"),
        (lambda: RAMP(dataclasses.replace(ATTACK, norm="l2")), r"^attack must be linf"),
    ):
        with pytest.raises(InputError, match=match):
            wrong()
