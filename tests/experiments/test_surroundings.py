"""Where a command is run: no home, no terminal, no cache, a reader that goes away, names of any length and script."""

import json
import os
import subprocess
import sys

from tests.commands import ROOT

TINY = (
    *("--config=natural:digits", "--config.epochs=1", "--config.data.examples=200", "--config.network.width=2"),
    *("--config.validation.steps=1", "--config.evaluation.protocol=clean", "--config.evaluation.examples=20"),
)


def test_a_run_wants_nothing_of_its_surroundings(tmp_path):
    # Everything at once, since a process costs seconds: an environment without HOME and TERM, a cache folder that cannot
    # be made, a terminal's encoding without the letters of the path, `| head -1`, and a name of 200 characters.
    workdir = tmp_path / "наш прогон, 実験 & more" / ("x" * 200)
    kept = ("PATH", "JAX_PLATFORMS", "XLA_FLAGS", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": "/dev/null/cache", "PYTHONIOENCODING": "ascii"}
    line = '"$@" | head -1; exit ${PIPESTATUS[0]}'
    command = [sys.executable, "-m", "experiments.run", f"--workdir={workdir}", *TINY]
    process = subprocess.run(
        ["bash", "-c", line, "bash", *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    assert len(process.stdout.splitlines()) == 1 and "Traceback" not in process.stderr
    report = json.loads((workdir / "report.json").read_text())
    assert report["results"][0]["n"] == 20
    assert (workdir / "tensorboard").is_dir() and (workdir / "training.png").is_file()
    # The same again in another place says where the report is, in the letters that there are.
    again = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and again.stdout.startswith("finished already: ")
    assert "\\u0448" in again.stdout and "x" * 200 in again.stdout
