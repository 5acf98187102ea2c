"""AutoAttack's machinery: independence of batches, order, devices and interruptions; the record; flags; bad input."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.attacks import autoattack, cascade, read_record
from advjax.attacks.apgd import APGD
from advjax.attacks.autoattack import VERSIONS, Stage, stage
from advjax.attacks.fab import FAB
from advjax.attacks.flags import masking
from advjax.attacks.square import Square
from advjax.errors import InputError
from tests.attacks import toy

KEY = jax.random.key(0)
EPS = 0.035
# A standard version in small.
STAGES = (
    Stage("apgd_ce", APGD("linf", "ce", 10, stop=True)),
    Stage("apgd_t", APGD("linf", "dlr_targeted", 10, stop=True), 3),
    Stage("fab_t", FAB("linf", steps=5, stop=True), 3),
    Stage("square", Square("linf", 40)),
)
F, X, Y = toy.labelled(64, wrong=3)


def run(rows=slice(None), **options):
    ids = np.arange(64) * 3 + 7
    options = {"norm": "linf", "eps": EPS, "attacks": STAGES, "ids": ids[rows], **options}
    return cascade(F, KEY, X[rows], Y[rows], **options)


@pytest.fixture(scope="module")
def whole():
    return run(batch_size=64, devices=jax.devices()[:1])


def assert_same(result, whole, rows=slice(None)):
    """Equal outcomes, figures and, rounding apart, images."""
    np.testing.assert_array_equal(result.robust, whole.robust[rows])
    np.testing.assert_array_equal(result.broken_by, whole.broken_by[rows])
    np.testing.assert_array_equal(result.forwards, whole.forwards[rows])
    np.testing.assert_array_equal(result.backwards, whole.backwards[rows])
    np.testing.assert_allclose(result.x_adv, whole.x_adv[rows], atol=1e-5)


def test_the_result_is_what_it_says(whole):
    assert set(whole.broken_by) >= {"", "clean", "apgd_ce"}
    np.testing.assert_array_equal(whole.robust, whole.broken_by == "")
    assert 5 < whole.robust.sum() < 60
    assert whole.accuracy["clean"] == 61 / 64 and list(whole.accuracy) == [
        "clean",
        "apgd_ce",
        "apgd_t",
        "fab_t",
        "square",
    ]
    assert whole.accuracy["square"] == whole.robust.mean()
    assert np.all(np.diff(list(whole.accuracy.values())) <= 0)
    toy.check_inside(whole.x_adv, X, "linf", EPS)
    broken = (whole.broken_by != "") & (whole.broken_by != "clean")
    np.testing.assert_array_equal(np.argmax(F(whole.x_adv), -1)[broken] != Y[broken], True)
    np.testing.assert_array_equal(whole.x_adv[~broken], X[~broken])
    # a robust image has seen everything: 1 clean, 11 + 3 x 11 + 3 x 2 x 5 + 41 forwards; 11 + 33 + 15 gradients
    assert set(whole.forwards[whole.robust]) == {1 + 11 + 33 + 30 + 41}
    assert set(whole.backwards[whole.robust]) == {11 + 33 + 15}
    assert set(whole.forwards[whole.broken_by == "clean"]) == {1}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_nothing(whole, batch_size):
    rows = slice(0, 8) if batch_size == 1 else slice(None)
    assert_same(run(rows, batch_size=batch_size, devices=jax.devices()[:1]), whole, rows)


def test_four_devices_change_nothing(whole):
    assert len(jax.devices()) == 4
    assert_same(run(batch_size=20), whole)


def test_loops_on_the_device_change_nothing(whole, monkeypatch):
    """What an accelerator does: many iterations in one program, over four devices."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rows = slice(0, 24)
    assert_same(run(rows, batch_size=24), whole, rows)


def test_order_changes_nothing(whole):
    rows = np.random.default_rng(0).permutation(64)[:50]
    assert_same(run(rows, batch_size=7, devices=jax.devices()[:1]), whole, rows)


def test_another_key_draws_other_noise(whole):
    other = cascade(F, jax.random.key(1), X, Y, norm="linf", eps=EPS, attacks=STAGES[:1], devices=jax.devices()[:1])
    broken = (whole.broken_by == "apgd_ce") & (other.broken_by == "apgd_ce")
    assert not np.allclose(other.x_adv[broken], whole.x_adv[broken], atol=1e-3)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", ["apgd_t", "square"])
def test_an_interrupted_run_goes_on(whole, tmp_path, at):
    path = tmp_path / "record.jsonl"

    def interrupt(name, done, total):
        if name == at:
            raise Killed

    options = {"batch_size": 7, "devices": jax.devices()[:1], "record_path": path}
    with pytest.raises(Killed):
        run(progress=interrupt, **options)
    with open(path, "ab") as file:
        file.write(b'{"id": 7, "atta')
    with open(f"{path}.x_adv", "ab") as file:
        file.write(b"torn")
    lines = len(path.read_text().splitlines())
    assert_same(run(**options), whole)
    assert len(path.read_text().splitlines()) > lines

    class NeverCalled(Exception):
        pass

    def never(name, done, total):
        raise NeverCalled

    assert_same(run(progress=never, **options), whole)
    record = read_record(path)
    for i, example in enumerate(np.arange(64) * 3 + 7):
        entry = record[int(example)]
        assert entry["clean"] == (whole.broken_by[i] != "clean")
        assert (entry["broken_by"] or "") == whole.broken_by[i]
        assert (entry["forwards"], entry["backwards"]) == (whole.forwards[i], whole.backwards[i])


_CHILD = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, {root!r})
import tests.attacks.test_autoattack as t
t.run(batch_size=7, devices=t.jax.devices()[:1], record_path=sys.argv[1], progress=lambda *a: print(*a, flush=True))
"""


def test_sigkill(whole, tmp_path):
    path = tmp_path / "record.jsonl"
    root = str(pathlib.Path(__file__).resolve().parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(root=root), str(path)], stdout=subprocess.PIPE, text=True
    )
    for line in child.stdout:
        if line.startswith("apgd_t"):
            break
    time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL
    done = len(path.read_text().splitlines())
    assert done > 64
    assert_same(run(batch_size=7, devices=jax.devices()[:1], record_path=path), whole)


def test_a_record_of_something_else_is_refused(tmp_path):
    path = tmp_path / "record.jsonl"
    options = {"attacks": STAGES[:1], "record_path": path, "devices": jax.devices()[:1], "network_hash": "a"}
    run(slice(0, 8), **options)
    run(slice(0, 12), **options)
    for change, word in [
        ({"eps": 0.04}, "eps"),
        ({"attacks": STAGES[:2]}, "attacks"),
        ({"network_hash": "b"}, "network"),
        ({"search_dtype": "bfloat16"}, "search_dtype"),
    ]:
        with pytest.raises(InputError, match=f"its {word} is"):
            run(slice(0, 8), **{**options, **change})
    with pytest.raises(InputError, match="another image"):
        cascade(F, KEY, X[:8] * 0.5, Y[:8], norm="linf", eps=EPS, ids=np.arange(8) * 3 + 7, **options)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("hello\n")
    with pytest.raises(InputError, match="no record"):
        run(slice(0, 8), **{**options, "record_path": broken})
    (tmp_path / "record.jsonl.x_adv").unlink()
    with pytest.raises(InputError, match="lacks images"):
        run(slice(0, 8), **options)


def test_lines_are_whole_and_plain(tmp_path):
    path = tmp_path / "record.jsonl"
    run(slice(0, 8), record_path=path, devices=jax.devices()[:1])
    header, *entries = map(json.loads, path.read_text().splitlines())
    assert header["config"]["eps"] == EPS and "queries=40" in header["config"]["attacks"]["square"]
    assert {"id", "attack", "trial", "robust", "forwards", "backwards"} <= set(entries[-1])


def test_compiles_once_per_stage_and_size():
    traces = []

    def counted(x):
        traces.append(x.shape)
        return F(x)

    options = {"norm": "linf", "eps": EPS, "attacks": STAGES[:2], "batch_size": 8, "devices": jax.devices()[:1]}
    cascade(counted, KEY, X, Y, **options)
    first = len(traces)
    # shape inference, the clean forward, 5 forwards for the flag, and one program per stage (8 rows, then 8 rows)
    assert first <= 1 + 1 + 5 + 2 * 3
    cascade(counted, KEY, X[::-1], Y[::-1], **options)
    assert len(traces) - first <= 1 + 5
    assert {shape[0] for shape in traces} <= {1, 8}


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
    f, x = toy.network(classes), toy.images(10)
    y = np.argmax(f(x), -1).astype(np.int32)
    stages = [stage(name, "linf", classes) for name in ("apgd_dlr", "apgd_t", "fab_t")]
    assert [s.trials for s in stages] == [1, trials, trials]
    quick = [s._replace(attack=type(s.attack)(**{**vars(s.attack), "steps": 5})) for s in stages]
    result = cascade(f, KEY, x, y, norm="linf", eps=0.2, attacks=quick, devices=jax.devices()[:1])
    assert result.robust.mean() < 0.5
    assert {note.split(":")[0] for note in result.notes if "margin loss" in note} == margins
    assert any(f"{classes} classes" in note for note in result.notes)


QUICK = STAGES[:1]
ONE = {"norm": "linf", "eps": EPS, "attacks": QUICK, "devices": jax.devices()[:1]}


def test_flags_of_probabilities():
    assert "probabilities" in cascade(lambda x: jax.nn.softmax(F(x)), KEY, X[:8], Y[:8], **ONE).flags
    assert not cascade(F, KEY, X[:8], Y[:8], **ONE).flags


def test_flag_of_zero_gradients():
    def quantised(x):
        return F(jnp.round(x * 8) / 8)

    y = np.argmax(quantised(X[:8]), -1).astype(np.int32)
    dlr = (Stage("apgd_dlr", APGD("linf", "dlr", 3, stop=True)),)
    flags = cascade(quantised, KEY, X[:8], y, **{**ONE, "attacks": dlr}).flags
    assert flags["zero_gradient"].startswith("8 of 8") or flags["zero_gradient"][0].isdigit()
    assert "zero_gradient" not in cascade(F, KEY, X[:8], y, **{**ONE, "attacks": dlr}).flags


def test_flag_of_masking():
    """Rounding hides the gradient; Square does not need one."""

    def quantised(x):
        return F(jnp.round(x * 30) / 30)

    y = np.argmax(quantised(X), -1).astype(np.int32)
    stages = (STAGES[0], Stage("square", Square("linf", 60)))
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
    stages = (Stage("apgd_ce", APGD("linf", "ce", 5, stop=True)), Stage("apgd_dlr", APGD("linf", "dlr", 5, stop=True)))
    options = {"norm": "linf", "eps": EPS, "attacks": stages, "draws": 3, "keyed": True, "devices": jax.devices()[:1]}
    result = cascade(keyed_network, KEY, X[:24], Y[:24], **options)
    assert "randomised" in result.flags
    assert set(result.forwards[result.robust]) == {3 * (1 + 6 + 6)}
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
    options = {**ONE, "attacks": (STAGES[0], STAGES[3]), "eps": 0.02}
    low = cascade(f, KEY, x, y, search_dtype="bfloat16", **options)
    full = cascade(f, KEY, x, y, **options)
    broken = low.broken_by != ""
    assert 0 < broken.sum() < 48
    np.testing.assert_array_equal(np.argmax(f(low.x_adv), -1)[broken] != y[broken], True)
    assert abs(low.robust.mean() - full.robust.mean()) < 0.1
    # the search really ran in low precision
    assert not np.array_equal(low.x_adv, full.x_adv)


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
        ({"batch_size": 0}, "batch_size"),
        ({"attacks": ("apdg_ce",)}, "unknown attack"),
    ],
)
def test_bad_input(change, message):
    arguments = {"logits_fn": F, "key": KEY, "x": X, "y": Y, **ONE, **change}
    with pytest.raises(InputError, match=message):
        cascade(**arguments)
