"""AutoAttack: its versions, flags, randomised networks, precision and bad input."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import compiling
from advjax.attacks import apgd, autoattack, cascade
from advjax.attacks.apgd import APGD
from advjax.attacks.autoattack import VERSIONS, Stage, stage
from advjax.attacks.engine.flags import masking
from advjax.attacks.engine.oracle import Example
from advjax.attacks.fab import FAB
from advjax.attacks.square import Square
from advjax.errors import InputError
from tests.attacks import toy

KEY = jax.random.key(0)
EPS = 0.035
QUICK = (Stage("apgd_ce", APGD("linf", "ce", 10, stop=True)),)
ONE = {"norm": "linf", "eps": EPS, "attacks": QUICK, "devices": jax.devices()[:1]}
F, X, Y = toy.labelled(64, wrong=3)


def test_noise_is_a_function_of_key_attack_trial_and_id():
    zeros = np.zeros(4, np.int32)
    e = Example(X[:4], Y[:4], zeros, np.asarray([3, 3, 4, 3], np.int32), np.asarray([0, 1, 0, 0], np.int32), zeros)
    keys = np.asarray(jax.random.key_data(e.keys(KEY)))
    assert len(np.unique(keys, axis=0)) == 3
    np.testing.assert_array_equal(keys[0], keys[3])

    def found(key, name):
        stages = (QUICK[0]._replace(name=name),)
        return cascade(F, key, X[3:11], Y[3:11], **{**ONE, "eps": 0.1, "attacks": stages})

    first, renamed, rekeyed = found(KEY, "apgd_ce"), found(KEY, "other"), found(jax.random.key(1), "apgd_ce")
    for other in (renamed, rekeyed):
        broken = ~first.robust & ~other.robust
        assert broken.any() and not np.allclose(first.x_adv[broken], other.x_adv[broken], atol=1e-3)


class Misled(NamedTuple):
    ticks: jax.Array
    done: jax.Array
    success: jax.Array
    x_adv: jax.Array


@dataclasses.dataclass(frozen=True)
class SucceedsIfMisled:
    """Breaks an image whose target is not the wrong class of its trial's rank on the clean image."""

    ticks = chunk = forwards_per_tick = 1
    backwards_per_tick = 0

    def begin(self, e, key):
        no = jnp.zeros(len(e.x), bool)
        return Misled(jnp.zeros(len(e.x), jnp.int32), no, no, e.x)

    def __call__(self, _, state, e, oracle, key):
        ranked = jnp.argsort(-oracle.logits(e.x, None), -1)
        expected = jnp.take_along_axis(ranked, e.trial[:, None] + 1, -1)[:, 0]
        return state._replace(ticks=state.ticks + 1, done=jnp.ones_like(state.done), success=e.target != expected)


def test_targets_are_the_likeliest_wrong_classes_of_the_clean_image():
    found = cascade(F, KEY, X, Y, **{**ONE, "attacks": (Stage("misled", SucceedsIfMisled(), 9),)})
    assert found.robust.sum() == len(X) - 3


def test_compiles_once_per_stage_and_size():
    traces = []

    def counted(x):
        traces.append(x.shape)
        return F(x)

    two = (*QUICK, Stage("apgd_t", APGD("linf", "dlr_targeted", 10, stop=True), 3))
    options = {"norm": "linf", "eps": EPS, "attacks": two, "batch_size": 8, "devices": jax.devices()[:1]}
    cascade(counted, KEY, X, Y, **options)
    first = len(traces)
    # shape inference, the clean forward, two traces for the flag, and one program per stage (8 rows, then 8 rows)
    assert first <= 1 + 1 + 2 + 2 * 3
    cascade(counted, KEY, X[::-1], Y[::-1], **options)
    assert len(traces) - first <= 1 + 2
    assert {shape[0] for shape in traces} <= {2, 3, 8}


def test_where_compiling_costs_more_than_it_saves_a_batch_keeps_its_size(monkeypatch):
    options = {"norm": "linf", "eps": EPS, "attacks": (Stage("apgd_ce", APGD("linf", "ce", 40, stop=True)),)}
    options |= {"batch_size": 16, "devices": jax.devices()[:1]}

    def run():
        traces = []

        def counted(x):
            traces.append(len(x))
            return F(x)

        return cascade(counted, KEY, X[:18], Y[:18], **options), set(traces)

    shrunk, sizes = run()
    assert sizes == {2, 3, 9, 15, 8}  # 15 stand after the clean forward
    monkeypatch.setattr(compiling, "pays", lambda flops: flops > 1e12)
    kept, sizes = run()
    assert sizes == {2, 3, 9, 15}
    np.testing.assert_array_equal(kept.robust, shrunk.robust)


def names_and_trials(version, norm, classes=10):
    return [(s.name, s.trials) for s in (stage(name, norm, classes) for name in VERSIONS[version])]


def test_versions():
    assert names_and_trials("fast", "linf") == [("apgd_ce", 1), ("apgd_t", 9)]
    assert names_and_trials("standard", "l2") == [("apgd_ce", 1), ("apgd_t", 9), ("fab_t", 9), ("square", 1)]
    assert names_and_trials("standard", "l1") == [("apgd_ce", 5), ("apgd_t", 5), ("fab_t", 9), ("square", 1)]
    assert names_and_trials("plus", "linf") == [
        ("apgd_ce_5", 5), ("apgd_dlr_5", 5), ("fab_5", 5), ("square", 1), ("apgd_t", 9), ("fab_t", 9),
    ]  # fmt: skip
    assert names_and_trials("rand", "linf") == [("apgd_ce", 1), ("apgd_dlr", 1)]
    assert stage("square", "linf", 10).attack.queries == 5000 and stage("square_100", "linf", 10).attack.queries == 100
    assert stage("apgd_ce", "linf", 10).attack.steps == 100 and stage("fab_t", "l1", 10).attack.steps == 100
    with pytest.raises(InputError, match="plus"):
        autoattack(F, KEY, X, Y, norm="l1", eps=1.0, version="plus")
    with pytest.raises(InputError, match="did you mean standard"):
        autoattack(F, KEY, X, Y, norm="linf", eps=0.1, version="standart")


@pytest.mark.parametrize(
    ("classes", "trials", "margins"), [(2, 1, {"apgd_dlr", "apgd_t"}), (3, 2, {"apgd_t"}), (5, 4, set())]
)
def test_few_classes(classes, trials, margins):
    stages = [stage(name, "linf", classes) for name in ("apgd_dlr", "apgd_t", "fab_t")]
    assert [s.trials for s in stages] == [1, trials, trials]
    assert {s.name for s in stages if getattr(s.attack, "loss", "").startswith("margin")} == margins


def test_plus_from_end_to_end():
    """Four classes: DLR works, its targeted form too, and there are three targets."""
    f, x = toy.network(4, hidden=8), toy.images(4)
    y = np.array(np.argmax(f(x), -1), np.int32)
    y[0] = (y[0] + 1) % 4
    result = autoattack(f, KEY, x, y, norm="linf", eps=0.03, version="plus", batch_size=4, devices=jax.devices()[:1])
    assert list(result.accuracy) == ["clean", *VERSIONS["plus"]]
    assert 0 < result.robust.sum() < 3
    assert set(result.forwards[result.robust]) == {1 + 505 + 505 + 5 * 200 + 5001 + 3 * 101 + 3 * 200}
    assert set(result.backwards[result.robust]) == {505 + 505 + 5 * 100 * 4 + 3 * 101 + 3 * 100}
    assert result.notes == tuple(f"{name}: 3 targets, since there are 4 classes" for name in ("apgd_t", "fab_t"))
    toy.check_inside(result.x_adv, x, "linf", 0.03)


def test_margin_for_two_classes():
    f, x = toy.network(2), toy.images(8)
    y = np.argmax(f(x), -1).astype(np.int32)
    quick = [Stage("apgd_t", APGD("linf", "margin_targeted", 5, stop=True)), Stage("fab_t", FAB("linf", steps=3))]
    result = cascade(f, KEY, x, y, **{**ONE, "attacks": quick, "eps": 0.2})
    assert result.robust.mean() < 0.5
    assert result.notes[0] == "apgd_t: 1 target, since there are 2 classes"
    assert "margin loss" in result.notes[1]


def test_more_restarts_than_targets():
    f, x = toy.network(2), toy.images(8)
    y = np.argmax(f(x), -1).astype(np.int32)
    restarts = (Stage("apgd_ce", APGD("linf", "ce", 3, stop=True), 4),)
    result = cascade(f, KEY, x, y, **{**ONE, "attacks": restarts, "eps": 0.001})
    assert set(result.forwards[result.robust]) == {1 + 4 * 4}


def test_flags_of_probabilities():
    assert "probabilities" in cascade(lambda x: jax.nn.softmax(F(x)), KEY, X[:8], Y[:8], **ONE).flags
    assert not cascade(F, KEY, X[:8], Y[:8], **ONE).flags


def test_flag_of_zero_gradients():
    """Rounding leaves none; of the images that stand at the start all are counted, and none of a smooth network."""

    def quantised(x):
        return F(jnp.round(x * 8) / 8)

    y = np.array(np.argmax(quantised(X[:8]), -1), np.int32)
    y[:2] = (y[:2] + 1) % 10
    dlr = (Stage("apgd_dlr", APGD("linf", "dlr", 3, stop=True)),)
    flags = cascade(quantised, KEY, X[:8], y, **{**ONE, "attacks": dlr}).flags
    assert flags["zero_gradient"].startswith("6 of 8 images have a zero gradient")
    assert "zero_gradient" not in cascade(F, KEY, X[:8], y, **{**ONE, "attacks": dlr}).flags


def test_flags_of_gradients_at_test_time_and_of_constant_logits():
    def purified(x):
        return F(x - 0.01 * jax.grad(lambda x: jnp.sum(F(x) ** 2))(x))

    for defence in (purified, jax.jit(purified)):
        assert "gradients" in cascade(defence, KEY, X[:8], Y[:8], **ONE).flags
    assert "constant" in cascade(lambda x: 0 * F(x) + jnp.arange(10.0), KEY, X[:8], Y[:8], **ONE).flags
    assert "constant" not in cascade(F, KEY, X[:1], Y[:1], **ONE).flags


def test_flag_of_masking():
    """Rounding hides the gradient; Square does not need one."""

    def quantised(x):
        return F(jnp.round(x * 30) / 30)

    y = np.argmax(quantised(X), -1).astype(np.int32)
    stages = (*QUICK, Stage("square", Square("linf", 60)))
    result = cascade(quantised, KEY, X, y, **{**ONE, "attacks": stages, "eps": 0.1})
    assert result.accuracy["square"] < result.accuracy["apgd_ce"] - 0.002
    assert "masking" in result.flags
    assert masking({"clean": 1.0, "apgd_ce": 0.5, "square": 0.4985}) is None
    assert masking({"clean": 1.0, "apgd_ce": 0.5, "square": 0.497}) is not None


def test_flag_of_host_randomness():
    rng = np.random.default_rng(0)

    def noisy(x):
        return F(x) + jnp.asarray(rng.normal(size=10), jnp.float32)

    assert "randomised" in cascade(noisy, KEY, X[:8], Y[:8], **ONE).flags


def keyed_network(x, key):
    """Noise on the images before the network."""
    return F(x + 0.03 * jax.random.normal(key, x.shape))


def test_randomised_network_with_rand():
    options = {
        **ONE,
        "attacks": (Stage("apgd_dlr", APGD("linf", "dlr", 5, stop=True)),),
        "eot_samples": 3,
        "stochastic": True,
    }
    result = cascade(keyed_network, KEY, X[:24], Y[:24], **options)
    assert "randomised" in result.flags
    assert set(result.forwards[result.robust]) == {3 * (1 + 6)}
    rows = np.asarray([9, 3, 17, 20])
    part = cascade(keyed_network, KEY, X[rows], Y[rows], ids=rows, **options)
    np.testing.assert_array_equal(part.broken_by, result.broken_by[rows])
    np.testing.assert_allclose(part.x_adv, result.x_adv[rows], atol=1e-4)
    # what was called broken is broken in most fresh draws
    broken = np.flatnonzero((result.broken_by != "") & (result.broken_by != "clean"))
    logits = jax.vmap(lambda k: keyed_network(result.x_adv[broken], k))(jax.random.split(jax.random.key(9), 50))
    wrong = np.mean(np.argmax(logits, -1) != Y[broken], 0)
    assert len(broken) and np.mean(wrong > 0.4) > 0.8


def test_search_in_bfloat16_counts_only_float32_successes():
    variables = {"w": jnp.asarray(np.random.default_rng(3).normal(size=(60, 10)) / 2, jnp.float32)}

    def apply(variables, x):
        return x.reshape(len(x), -1) @ variables["w"]

    f = jax.tree_util.Partial(apply, variables)
    x = toy.images(48)
    y = np.argmax(f(x), -1).astype(np.int32)
    options = {**ONE, "eps": 0.02}
    low = cascade(f, KEY, x, y, search_dtype="bfloat16", **options)
    full = cascade(f, KEY, x, y, **options)
    broken = low.broken_by != ""
    assert 0 < broken.sum() < 48
    np.testing.assert_array_equal(np.argmax(f(low.x_adv), -1)[broken] != y[broken], True)
    assert abs(low.robust.mean() - full.robust.mean()) < 0.1
    # the search really ran in low precision
    assert not np.array_equal(low.x_adv, full.x_adv)


def test_results_print_as_lines():
    lines = repr(cascade(F, KEY, X, Y, **ONE)).splitlines()
    assert lines[0].split() == ["attack", "accuracy", "broken", "seconds"]
    assert lines[1].split()[:3] == ["clean", "95.31%", "3"] and lines[2].startswith("apgd_ce ")
    assert len(lines) == 4 and lines[3].endswith("backwards per image")
    one = apgd(F, KEY, X[:4], Y[:4], norm="linf", eps=EPS, steps=2)
    assert repr(one).splitlines()[0].startswith("APGDResult, ") and "x_adv      float32 [4, 6, 5, 2]" in repr(one)


def test_epsilon_zero_is_the_clean_accuracy():
    result = cascade(F, KEY, X, Y, **{**ONE, "eps": 0.0})
    np.testing.assert_array_equal(result.x_adv, X)
    assert result.accuracy == {"clean": 61 / 64, "apgd_ce": 61 / 64} and set(result.forwards) == {1}


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 1)])
def test_one_pixel_and_oblong_images(shape):
    d = int(np.prod(shape))
    weights = np.random.default_rng(0).normal(size=(d, 3)) if d > 1 else [[5.0, -5.0, 0.0]]
    f = toy.linear(weights, 0.0 if d > 1 else [-2.5, 2.5, -10.0])
    x = toy.images(6, shape=shape)
    y = np.argmax(f(x), -1).astype(np.int32)
    stages = [
        Stage("square", Square("l1", 10)),
        Stage("fab_t", FAB("l1", steps=4, stop=True), 2),
        Stage("apgd_ce", APGD("l1", "ce", 10, stop=True)),
    ]
    result = cascade(f, KEY, x, y, norm="l1", eps=0.4 * d, attacks=stages, devices=jax.devices()[:1])
    toy.check_inside(result.x_adv, x, "l1", 0.4 * d)
    assert result.robust.mean() < 1
    if d == 1:
        np.testing.assert_array_equal(result.robust, np.abs(x.ravel() - 0.5) > 0.4)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_logits_that_are_not_finite_count_against_the_network(norm):
    """By default; either way the flag says of how many images, and images stay finite, in ball and box."""
    x = 0.2 + 0.6 * X[:16]

    def fragile(x):
        return jnp.where(jnp.max(x, (1, 2, 3))[:, None] > 0.83, jnp.nan, F(x))

    y, eps = np.argmax(fragile(x), -1).astype(np.int32), {"linf": 0.2, "l1": 3.0}[norm]
    stages = (
        Stage("apgd_ce", APGD(norm, "ce", 10, stop=True)),
        Stage("fab_t", FAB(norm, steps=5, stop=True), 2),
        Stage("square", Square(norm, 60)),
    )
    options = {**ONE, "norm": norm, "attacks": stages, "eps": eps}
    broken = cascade(fragile, KEY, x, y, **options)
    robust = cascade(fragile, KEY, x, y, non_finite="robust", **options)
    for result, counted in ((broken, "broken"), (robust, "robust")):
        toy.check_inside(result.x_adv, x, norm, eps)
        logits = np.asarray(fragile(result.x_adv))
        strange = ~np.isfinite(logits).all(-1)
        assert np.all(strange[~result.robust] | (np.argmax(logits, -1) != y)[~result.robust])
        assert not (strange & result.robust).any()
        assert result.flags["non_finite"].split(" images")[0].endswith(" of 16 attacked")
        assert result.flags["non_finite"].endswith(f"count as {counted}")
        if counted == "robust":
            assert not strange.any()
        else:
            assert strange.any() and f"logits of {strange.sum()} of 16" in result.flags["non_finite"]
    assert broken.robust.sum() < robust.robust.sum()
    with pytest.raises(InputError, match="unknown non_finite 'no'"):
        cascade(fragile, KEY, x, y, non_finite="no", **options)


def nan_network(x):
    return jnp.where(x[:, :1, 0, 0] > 0.5, jnp.nan, F(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X * 255}, r"x must lie in \[0, 1\]"),
        ({"x": np.where(X > 0.5, np.nan, X)}, r"x must lie in \[0, 1\]"),
        ({"x": (X * 255).astype(np.uint8)}, r"x must"),
        ({"x": X[:0], "y": Y[:0]}, "at least one image"),
        ({"x": X.reshape(64, -1)}, r"\[B, H, W, C\]"),
        ({"x": X[:5]}, "same length"),
        ({"y": Y + 10}, "y must be labels in 0..9"),
        ({"y": Y - 10}, "y must be labels in 0..9"),
        ({"y": Y.astype(np.float32)}, "integer labels"),
        ({"eps": -0.1}, "eps must be between 0 and 1"),
        ({"eps": 8}, "8/255"),
        ({"eps": float("nan")}, "eps must be"),
        ({"norm": "l3"}, "unknown norm"),
        ({"logits_fn": nan_network}, "NaN or infinite"),
        ({"logits_fn": lambda x: F(x)[:, :1]}, "at least two classes"),
        ({"logits_fn": lambda x: F(x)[0]}, r"logits \[B, K\]"),
        ({"ids": np.zeros(64, np.int32)}, "ids must differ"),
        ({"ids": np.arange(5)}, "ids must be one per image"),
        ({"batch_size": -1}, "batch_size"),
        ({"attacks": ("apdg_ce",)}, "unknown attack"),
        ({"key": 0}, r"key must be a random key such as jax\.random\.key\(0\), it is 0"),
        ({"y": Y[:, None]}, r"y must be integer labels \[B\], it is int32 of shape \(64, 1\)"),
        ({"eot_samples": 1.5}, "eot_samples must be a whole number"),
        ({"batch_size": 2.5}, "batch_size must be"),
        ({"logits_fn": lambda x: jnp.argmax(F(x), -1, keepdims=True) * jnp.ones(10, jnp.int32)}, "floating point"),
        ({"logits_fn": lambda x: F(x.reshape(64, *toy.SHAPE))}, "batches of any size; with 3 of them it fails"),
        ({"logits_fn": lambda x: np.sin(np.asarray(x)).sum((1, 2))}, "logits_fn must be a JAX function"),
        ({"logits_fn": F(X)}, "logits_fn must be a function of images"),
        ({"batch_size": 2**40}, "batch_size must be at most 1,000,000"),
        ({"devices": "cpu"}, "devices must be devices"),
        ({"progress": 3}, "progress must be a function, it is 3"),
        ({"record_path": 3}, "record_path must be a path, it is 3"),
        ({"record_path": "a\0b"}, "record_path must be a path, it is"),
        ({"attacks": 3}, "attacks must be one or more names"),
    ],
)
def test_bad_input(change, message):
    arguments = {"logits_fn": F, "key": KEY, "x": X, "y": Y, **ONE, **change}
    with pytest.raises(InputError, match=message):
        cascade(**arguments)
