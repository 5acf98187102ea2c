"""Command lines as their users type them, many in one process that imports everything once."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Forked for every command line before any device is touched; what a command prints, its parent reads from a file.
_FORKS = """
import importlib, json, os, sys, tempfile
import advjax, advjax.cli.run
advjax.data.load("digits")
results = []
for name, *argv in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if not (child := os.fork()):
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = [name, *argv]  # where ml_collections looks for --config.field=value
            status = importlib.import_module(f"experiments.{name}").main(sys.argv)
            sys.stdout.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        results.append([status, *texts])
print(json.dumps(results))
"""


class Result(NamedTuple):
    """What came of a command line."""

    status: int
    stdout: str
    stderr: str


def run_all(commands, cwd=ROOT) -> list[Result]:
    """Runs `experiments.NAME` with arguments, one after the other: each command is [NAME, ARGUMENT, ...]."""
    process = subprocess.run(
        [sys.executable, "-c", _FORKS],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps([list(map(str, command)) for command in commands]),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    return [Result(*result) for result in json.loads(process.stdout.splitlines()[-1])]


def assert_one_line(result: Result, expected: str) -> None:
    """Bad input, said in one line that has `expected` in it, status 2."""
    assert result.status == 2, result
    assert len(result.stderr.strip().splitlines()) == 1 and result.stderr.startswith("error: "), result
    assert expected in result.stderr, result
