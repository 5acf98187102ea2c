"""Command lines of several processes, as their users type them: what is refused at the start, and shared evaluations."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.commands import ROOT, Result

MODULE = """
import numpy as np
from advjax import data
from advjax.evaluate import protocols

def make():
    train = data.load("digits").train
    means = np.stack([train.image[train.label == label].mean(0) for label in range(10)]).reshape(10, -1) / 255
    return lambda x: 8 * (x.reshape(len(x), -1) @ means.T - (means**2).sum(1) / 2)

def protocol(norm, eps):
    return protocols.clean(norm, eps), protocols.pgd_steps(10, norm, eps)
"""

# All groups of a round work at once; every process is forked from one that imported everything and touched no device.
_FORKS = """
import importlib, json, os, signal, sys
import advjax, advjax.cli.run, advjax.cli.evaluate
from advjax.attacks.engine.record import Record
finish = importlib.import_module("advjax.runs.finish")
advjax.data.load("digits")

def work(name, argv, version, kill, cwd):
    os.chdir(cwd)
    sys.argv = [name, *argv]
    if version:
        advjax.__version__ = finish.__version__ = version
    left, add = [kill], Record.add
    def adding(self, entries):
        add(self, entries)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    Record.add = adding
    return importlib.import_module(f"experiments.{name}").main(sys.argv)

folder, rounds = json.load(sys.stdin)
ended = []
for commands in rounds:
    children = []
    for number, command in enumerate(commands, start=len(ended)):
        if not (child := os.fork()):
            for stream, end in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{folder}/{number}.{end}", os.O_WRONLY | os.O_CREAT), stream)
            status = work(*command)
            sys.stdout.flush()
            sys.exit(status)
        children.append(child)
    ended += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps(ended))
"""


def run_together(folder, *rounds):
    """What comes of every process of every group, round after round: name -> commands, [NAME, FLAG, ..., {}].

    In the dict: `version`, which a process takes itself for; `kill`, the batch after whose outcomes it is killed; `cwd`.
    """
    commands = [[command for processes in groups.values() for command in _placed(processes)] for groups in rounds]
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    done = subprocess.run(
        [sys.executable, "-c", _FORKS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "XLA_FLAGS": flags},
        input=json.dumps([str(folder), commands]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = [
        [(folder / f"{number}.{end}").read_text() for end in ("out", "err")]
        for number in range(sum(map(len, commands)))
    ]
    results = map(Result, json.loads(done.stdout.splitlines()[-1]), *zip(*said, strict=True))
    return {name: [next(results) for _ in group] for groups in rounds for name, group in groups.items()}


def _placed(processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for index, (name, *flags, own) in enumerate(processes):
        field = "--config.hosts" if name == "run" else "--hosts"
        place = f"127.0.0.1:{port},{len(processes)},{index}" if len(processes) > 1 else "off"
        command = [*flags, f"{field}={place}"]
        yield [name, command, own.get("version"), own.get("kill", 0), str(own.get("cwd", ROOT))]


EVALUATE = (
    "evaluate", "--function=mine:make", "--data=digits", "--eps=0.1", "--protocol=mine:protocol", "--examples=24",
    "--batch_size=8", "--hosts_timeout=5",
)  # fmt: skip
RUN = ("run", "--config=pgd_at:digits", "--config.hosts_timeout=5")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Everything at once; then one process finishes what four began."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "mine.py").write_text(MODULE)
    hosts = [folder / "host-0", folder / "host-1"]
    for host in hosts:
        host.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (208, 8, 8, 1), np.uint8)
    for host in hosts:
        test = {"x_test": image[:20], "y_test": np.arange(20) % 10}
        np.savez(host / "data.npz", x_train=image, y_train=np.arange(208) % 10, **test)
        image[7, 3, 3] ^= 1
    old, memory = f"--workdir={folder / 'old'}", "--workdir=memory://bucket/run"
    npz = ("--config.data.name=npz", "--config.data.path=data.npz", "--config.data.validation=24")
    together = {
        "one": [[*EVALUATE, f"--out={folder / 'one'}", {}]],
        "killed": [[*EVALUATE, f"--out={folder / 'killed'}", {"kill": kill}] for kill in (0, 0, 5, 0)],
        "apart": [[*EVALUATE, "--out=here", {"cwd": host}] for host in hosts],
        "run-apart": [[*RUN, "--workdir=here", {"cwd": host}] for host in hosts],
        "config": [[*RUN, old, f"--config.attack.eps={eps}", {}] for eps in (0.2, 0.1)],
        "data": [[*RUN, old, *npz, {"cwd": host}] for host in hosts],
        "evaluate-version": [[*EVALUATE, "--out=old", {"cwd": folder, "version": each}] for each in (None, "0.0.9")],
        "run-version": [[*RUN, old, {"version": each}] for each in (None, "0.0.9")],
        "memory": [[*RUN, memory, {}]] * 2,
        "memory-of-one": [[*RUN, place, {}] for place in (old, memory)],
    }
    return folder, run_together(folder, together, {"resumed": [[*EVALUATE, f"--out={folder / 'killed'}", {}]]})


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("memory", "workdir must be a folder that all 2 processes see"),
        ("memory-of-one", "workdir must be a folder that all 2 processes see"),
        ("config", "differ, and must not (attack.eps: '0.2' and '0.1')"),
        ("data", "differ, and must not (data.training: '"),
        ("run-apart", "workdir must be one folder that all 2 processes see; process 1 of 2 on "),
        ("run-version", "differ, and must not (version: "),
        ("evaluate-version", "differ, and must not (version: "),
        ("apart", "--out must be one folder that all 2 processes see; process 1 of 2 on "),
    ],
)
def test_what_is_refused_is_a_line_of_every_process_before_anything_starts(done, group, said):
    folder, ended = done
    assert [each.status for each in ended[group]] == [2, 2], ended[group]
    for each in ended[group]:
        lines = [line for line in each.stderr.splitlines() if not line.startswith("[Gloo]")]
        assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0], each
    assert ended[group][1].stdout == ""
    assert not (folder / "old").exists()
    assert not list(folder.glob("host-*/**/metrics.jsonl")) and not list(folder.glob("host-*/**/.seen-*"))


def report(out):
    """What `report.json` says, but for what differs between two computers."""
    said = json.loads((out / "report.json").read_text())
    return {
        **said,
        "results": [{k: v for k, v in row.items() if k not in ("seconds", "device")} for row in said["results"]],
    }


def test_an_evaluation_by_four_of_which_one_is_killed_is_finished_by_one_and_says_the_same(done):
    folder, ended = done
    assert [each.status for each in ended["killed"]] == [1, 1, -signal.SIGKILL, 1], ended["killed"]
    for each in ended["killed"][:2] + ended["killed"][3:]:
        last = each.stderr.strip().splitlines()[-1]
        assert last.startswith("error: process 2 of 4 on ") and "is gone" in last, each
    assert [each.stdout for each in ended["killed"][1:]] == [""] * 3
    assert [each.status for each in ended["one"] + ended["resumed"]] == [0, 0], ended
    assert [row["accuracy"] < 1 for row in report(folder / "one")["results"]] == [True, True]
    assert report(folder / "killed") == report(folder / "one")
    assert not list((folder / "killed").glob("*.part-*"))
    examples = [(folder / name / "examples-mine:protocol.jsonl").read_text() for name in ("one", "killed")]
    assert examples[0] == examples[1]
