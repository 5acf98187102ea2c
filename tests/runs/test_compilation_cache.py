"""Compiled programs outlive the process, where the field says; each case in a process of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
from advjax.runs import compilation_cache
from advjax.errors import InputError
compilation_cache.MIN_COMPILE_SECONDS = 0.0
try:
    compilation_cache.enable(sys.argv[1])
except InputError as error:
    sys.exit(f"error: {error}")
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
print(float(jax.jit(lambda x: x * 2 + 1)(20.0)), len(hits))
"""


def start(where, **environment):
    inherited = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(where)],
        cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return result.stdout.strip(), result.stderr


def programs(folder):
    return [path for path in folder.rglob("*-cache") if path.is_file()]


def test_the_second_start_compiles_nothing_and_a_damaged_program_is_compiled_anew(tmp_path):
    assert start(tmp_path)[0] == "41.0 0"
    assert programs(tmp_path)
    assert start(tmp_path)[0] == "41.0 1"
    for path in programs(tmp_path):
        path.write_bytes(path.read_bytes()[:20])  # as if killed while writing
    assert start(tmp_path)[0] == "41.0 0"


def test_auto_is_the_users_cache_directory_unless_jax_was_told_another(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    start("auto", XDG_CACHE_HOME=str(home))
    assert programs(home / "advjax")
    start("auto", XDG_CACHE_HOME=str(tmp_path / "unused"), JAX_COMPILATION_CACHE_DIR=str(other))
    assert programs(other)
    assert not (tmp_path / "unused").exists()


def test_off_writes_nothing(tmp_path):
    assert start("off", XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=str(tmp_path))[0] == "41.0 0"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["LICENSE", "LICENSE/below"])
def test_a_folder_that_cannot_be_is_named(where):
    _, error = start(where)
    assert "compilation_cache must be auto, off or a folder that can be written to" in error
    assert where in error
