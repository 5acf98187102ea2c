"""Outcomes that depend on neither batch, order, devices nor interruptions; the record of an evaluation."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from advjax import compiling
from advjax.attacks import Stage, cascade, read_record
from advjax.attacks.apgd import APGD
from advjax.attacks.fab import FAB
from advjax.attacks.square import Square
from advjax.errors import InputError
from tests.attacks import toy

KEY = jax.random.key(0)
ONE = jax.devices()[:1]
EPS = {"linf": 0.035, "l2": 0.17, "l1": 0.9}
N = 30
F, X, Y = toy.labelled(66, wrong=3)
IDS = np.arange(66) * 3 + 7


def stages(norm):
    """A standard version in small."""
    return (
        Stage("apgd_t", APGD(norm, "dlr_targeted", 10, stop=True), 3),
        Stage("fab_t", FAB(norm, steps=5, stop=True), 2),
        Stage("square", Square(norm, 40)),
    )


def run(rows=slice(0, N), norm="linf", **options):
    options = {"norm": norm, "eps": EPS[norm], "attacks": stages(norm), "ids": IDS[rows], **options}
    return cascade(F, KEY, X[rows], Y[rows], **options)


@pytest.fixture(scope="module")
def whole():
    return run(batch_size=N, devices=ONE)


def assert_same(result, whole, rows=slice(None)):
    """Equal outcomes, figures and, rounding apart, images."""
    np.testing.assert_array_equal(result.robust, whole.robust[rows])
    np.testing.assert_array_equal(result.broken_by, whole.broken_by[rows])
    np.testing.assert_array_equal(result.forwards, whole.forwards[rows])
    np.testing.assert_array_equal(result.backwards, whole.backwards[rows])
    np.testing.assert_allclose(result.x_adv, whole.x_adv[rows], atol=1e-5)


def test_the_result_is_what_it_says(whole):
    assert set(whole.broken_by) >= {"", "clean", "apgd_t"}
    np.testing.assert_array_equal(whole.robust, whole.broken_by == "")
    assert 3 < whole.robust.sum() < N - 3
    assert list(whole.accuracy) == ["clean", "apgd_t", "fab_t", "square"]
    assert whole.accuracy["clean"] == (N - 3) / N
    assert whole.accuracy["square"] == whole.robust.mean()
    assert np.all(np.diff(list(whole.accuracy.values())) <= 0)
    toy.check_inside(whole.x_adv, X[:N], "linf", EPS["linf"])
    broken = (whole.broken_by != "") & (whole.broken_by != "clean")
    np.testing.assert_array_equal(np.argmax(F(whole.x_adv), -1)[broken] != Y[:N][broken], True)
    np.testing.assert_array_equal(whole.x_adv[~broken], X[:N][~broken])
    # a robust image has seen everything: 1 clean, 3 x 11 + 2 x 2 x 5 + 41 forwards; 33 + 10 gradients
    assert set(whole.forwards[whole.robust]) == {1 + 33 + 20 + 41}
    assert set(whole.backwards[whole.robust]) == {33 + 10}
    assert set(whole.forwards[whole.broken_by == "clean"]) == {1}


def test_batch_sizes_change_nothing():
    attacks = (Stage("apgd_ce", APGD("linf", "ce", 10, stop=True)),)
    everything = run(slice(None), attacks=attacks, batch_size=66, devices=ONE)
    assert 5 < everything.robust.sum() < 60
    for batch_size, rows in ((1, slice(0, 8)), (7, slice(None)), (64, slice(None))):
        assert_same(run(rows, attacks=attacks, batch_size=batch_size, devices=ONE), everything, rows)


def test_order_changes_nothing(whole):
    rows = np.random.default_rng(0).permutation(N)[:25]
    assert_same(run(rows, batch_size=7, devices=ONE), whole, rows)


def test_four_devices_change_nothing(whole):
    assert len(jax.devices()) == 4
    assert_same(run(batch_size=12), whole)


def test_loops_on_the_device_change_nothing(whole, monkeypatch):
    """What an accelerator does: many iterations in one program, over four devices."""
    monkeypatch.setattr(compiling, "platform", lambda: "gpu")
    rows = slice(0, 8)
    assert_same(run(rows, batch_size=8), whole, rows)


class Killed(Exception):
    pass


def interrupted(path, at, **options):
    """A run that ends in the middle of an attack and leaves half a line and half an image."""

    def interrupt(name, done, total, standing):
        if name == at:
            raise Killed

    with pytest.raises(Killed):
        run(progress=interrupt, record_path=path, **options)
    with open(path, "ab") as file:
        file.write(b'{"id": 7, "atta')
    with open(f"{path}.x_adv", "ab") as file:
        file.write(b"torn")


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_batches_devices_order_and_resumption(norm, tmp_path):
    everything = run(slice(0, 12), norm, batch_size=12, devices=ONE)
    assert 0 < everything.robust.sum() < 11
    toy.check_inside(everything.x_adv, X[:12], norm, EPS[norm])
    rows = np.random.default_rng(1).permutation(12)[:9]
    options = {"rows": rows, "norm": norm, "batch_size": 4}
    interrupted(tmp_path / "record.jsonl", "fab_t", **options)
    assert_same(run(record_path=tmp_path / "record.jsonl", **options), everything, rows)


@pytest.mark.parametrize("at", ["apgd_t", "square"])
def test_an_interrupted_run_goes_on(whole, tmp_path, at):
    path = tmp_path / "record.jsonl"
    options = {"batch_size": 7, "devices": ONE}
    interrupted(path, at, **options)
    lines = len(path.read_text().splitlines())
    assert_same(run(record_path=path, **options), whole)
    assert len(path.read_text().splitlines()) > lines

    def never(name, done, total, standing):
        raise AssertionError("nothing is left to do")

    assert_same(run(progress=never, record_path=path, **options), whole)
    record = read_record(path)
    for i, example in enumerate(IDS[:N]):
        entry = record[int(example)]
        assert entry["clean"] == (whole.broken_by[i] != "clean")
        assert (entry["broken_by"] or "") == whole.broken_by[i]
        assert (entry["forwards"], entry["backwards"]) == (whole.forwards[i], whole.backwards[i])


_CHILD = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, {root!r})
import tests.attacks.test_invariance as t
t.run(batch_size=7, devices=t.ONE, record_path=sys.argv[1], progress=lambda *a: print(*a, flush=True))
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
    assert done > N
    assert_same(run(batch_size=7, devices=ONE, record_path=path), whole)


def test_a_record_of_something_else_is_refused(tmp_path):
    path = tmp_path / "record.jsonl"
    options = {"attacks": stages("linf")[:1], "record_path": path, "devices": ONE, "network_hash": "a"}
    run(slice(0, 8), **options)
    run(slice(0, 12), **options)
    for change, word in [
        ({"eps": 0.04}, "eps"),
        ({"attacks": stages("linf")[:2]}, "attacks"),
        ({"network_hash": "b"}, "network"),
        ({"search_dtype": "bfloat16"}, "search_dtype"),
    ]:
        with pytest.raises(InputError, match=f"its {word} is"):
            run(slice(0, 8), **{**options, **change})
    with pytest.raises(InputError, match="another image"):
        cascade(F, KEY, X[:8] * 0.5, Y[:8], norm="linf", eps=EPS["linf"], ids=IDS[:8], **options)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("hello\n")
    with pytest.raises(InputError, match="no record"):
        run(slice(0, 8), **{**options, "record_path": broken})
    (tmp_path / "record.jsonl.x_adv").unlink()
    with pytest.raises(InputError, match="lacks images"):
        run(slice(0, 8), **options)


def test_lines_are_whole_and_plain(tmp_path):
    path = tmp_path / "record.jsonl"
    run(slice(0, 7), record_path=path, devices=ONE)
    header, *entries = map(json.loads, path.read_text().splitlines())
    assert header["config"]["eps"] == EPS["linf"] and "queries=40" in header["config"]["attacks"]["square"]
    assert {"id", "attack", "trial", "robust", "forwards", "backwards"} <= set(entries[-1])
