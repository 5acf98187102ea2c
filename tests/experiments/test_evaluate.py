"""The evaluation command line: a user's function, a run, weights; killed and repeated; bad input."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from advjax import models

ROOT = pathlib.Path(__file__).resolve().parents[2]

USER_MODULE = """
import jax
import jax.numpy as jnp

WEIGHTS = jax.random.normal(jax.random.key(0), (64, 10))

def make():
    return lambda x: jnp.tanh(4 * x.reshape(len(x), -1) - 1) @ WEIGHTS

def fails():
    raise KeyError("two\\nlines")


def wants(something):
    return something


def not_one():
    return 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "mine.py").write_text(USER_MODULE)
    return folder


def command(folder, *flags):
    return [sys.executable, "-m", "experiments.evaluate", *flags]


def run(folder, *flags):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    return subprocess.run(
        command(folder, *flags), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


FLAGS = ("--function=mine:make", "--data=digits", "--eps=0.02", "--protocol=fast", "--examples=40", "--batch_size=20")


def rows(out):
    content = json.loads((out / "report.json").read_text())
    return {row["attack"]: {k: v for k, v in row.items() if k != "seconds"} for row in content["results"]}


def test_users_function_killed_and_repeated(folder):
    reference, killed = folder / "reference", folder / "killed"
    result = run(folder, *FLAGS, f"--out={reference}")
    assert result.returncode == 0, result.stderr
    assert set(rows(reference)) == {"clean", "pgd20", "autoattack_fast"}
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    process = subprocess.Popen(
        command(folder, *FLAGS, f"--out={killed}"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size > 1500 for path in killed.glob("autoattack_fast-*.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "report.json").exists()
    assert run(folder, *FLAGS, f"--out={killed}").returncode == 0
    assert rows(killed) == rows(reference)
    examples = [json.loads(line) for line in (killed / "examples-fast.jsonl").read_text().splitlines()]
    assert len(examples) == 40
    assert {"id", "clean", "attacks", "broken_by", "forwards", "backwards"} == set(examples[0])


def test_weights_file_with_an_architecture(folder):
    pytest.importorskip("safetensors")
    module = models.create("tiny_cnn", 10)
    variables = models.init(module, jax.random.key(0), (8, 8, 1))
    models.save_torch(str(folder / "weights.safetensors"), module, variables)
    flags = ("--network=tiny_cnn", "--data=digits", "--eps=0.05", "--protocol=quick", "--examples=8", "--batch_size=8")
    result = run(folder, f"--weights={folder / 'weights.safetensors'}", *flags, f"--out={folder / 'weights'}")
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "weights" / "report.json").read_text())
    assert report["networks"]["weights"]["architecture"] == "tiny_cnn"
    assert report["results"][0]["checkpoint"] == "given"


NETWORK = ("--network=tiny_cnn", "--data=digits", "--eps=0.1", "--out=x")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--data=digits",), "exactly one of --workdir, --weights and --function"),
        (("--function=mine:make", "--out=x"), "--eps is missing"),
        (("--function=mine:makes", "--data=digits", "--eps=0.1", "--out=x"), "cannot be imported"),
        (("--function=mine:fails", "--data=digits", "--eps=0.1", "--out=x"), "it fails: KeyError: 'two"),
        (
            ("--function=mine:wants", "--data=digits", "--eps=0.1", "--out=x"),
            "without arguments, it fails: TypeError: wants",
        ),
        (("--function=mine:not_one", "--data=digits", "--eps=0.1", "--out=x"), "must return a logits_fn"),
        (("--function=mine:make", "--data=digits", "--eps=8", "--out=x"), "did you mean 8/255"),
        (("--weights=w.pt", "--data=digits", "--eps=0.1", "--out=x"), "--network is missing"),
        (("--weights=w.pt", *NETWORK, "--options=[1]"), "--options must be options of the architecture by name"),
        (("--weights=w.pt", *NETWORK, '--options={"num_classes": 3}'), "without its name and num_classes"),
        (("--weights=w.pt", *NETWORK, "--options=" + "[" * 9999), "--options must be JSON"),
        (("--workdir=no/such/run", "--out=x"), "not the folder of a run"),
        (("--function=mine:make", "--data=digits", "--eps=0.1", "--examples=-5", "--out=x"), "--examples must be"),
        (("--function=mine:make", "--data=digits", "--eps=0.1", "--batch_size=-1", "--out=x"), "--batch_size must be"),
        (("--protocl=fast",), "--protocl"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input(flags, names, folder, monkeypatch, capsys):
    from advjax.cli import evaluate

    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    assert evaluate.main(["evaluate", *flags]) == 2
    error = capsys.readouterr().err
    assert names in error
    assert len(error.strip().splitlines()) == 1
    assert not (folder / "x").exists()
