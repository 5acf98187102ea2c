"""Wrong input by the thousand, as whole command lines and as configs.

    python -m experiments.soak.fuzz --out=runs/fuzz --commands=200 --configs=5000

A command line (`experiments.run` with one to three flags that may be wrong, on digits, with a budget of seconds) must end
with status 0, or with status 2, one line and no new folder; one that is still at work after a minute is told to stop, and
must do so with status 143 and one line. A config must be taken by everything that is checked before training, or
be refused in one line. What does neither is printed and goes to OUT/wrong.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import hypothesis

from advjax.errors import InputError
from experiments.soak.common import command, is_running, load
from experiments.soak.wrong_input import CONFIGS, Config, configs

BUDGET = {
    "epochs": "1",
    "data.examples": "200",
    "attack.steps": "1",
    "validation.steps": "1",
    "log.tensorboard": "False",
}
BUDGET |= {"evaluation.examples": "20", "method.peers": "2"}
MINUTE = 60.0


def main(argv: list[str]) -> int:
    """Runs the soak; status 1 if anything ended as it should not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for what is found; must not exist")
    parser.add_argument("--commands", type=int, default=200, help="command lines to try")
    parser.add_argument("--configs", type=int, default=5000, help="configs to try")
    parser.add_argument("--seed", type=int, default=0, help="of what is tried")
    options = parser.parse_args(argv[1:])
    out = pathlib.Path(options.out).absolute()
    out.mkdir(parents=True)
    load()
    wrong: list[dict[str, Any]] = []

    def say(what: str, shown: Any) -> None:
        wrong.append({"wrong": what, "input": repr(shown)[:2000]})
        print(json.dumps(wrong[-1]), flush=True)
        with open(out / "wrong.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(wrong[-1]) + "\n")

    # The command lines first: they are forked before any device is touched.
    each(options.commands, options.seed, lambda config: try_command(config, out / "run", say))
    each(options.configs, options.seed + 1, lambda config: try_config(config, say))
    print(json.dumps({"commands": options.commands, "configs": options.configs, "wrong": len(wrong)}))
    return int(bool(wrong))


def each(count: int, seed: int, attempt: Callable[[Config], None]) -> None:
    """Calls `attempt` with so many configs."""
    if count:
        generate = [hypothesis.Phase.generate]
        checks = list(hypothesis.HealthCheck)
        how = hypothesis.settings(
            max_examples=count, deadline=None, database=None, phases=generate, suppress_health_check=checks
        )
        hypothesis.seed(seed)(how(hypothesis.given(configs())(attempt)))()


def try_config(config: Config, say: Callable[[str, Any], None]) -> None:
    """Everything that is checked before training."""
    from advjax.runs import build
    from advjax.runs.train import state_bytes

    started = time.monotonic()
    try:
        state_bytes(build(config.values))
    except InputError as error:
        if len(str(error)) > 2000 or not any(str(part) in str(error) for path in config.changed for part in path):
            say(f"names no field: {error}", config.changed)
    except Exception:
        say(traceback.format_exc(limit=-3), config.changed)
    if time.monotonic() - started > MINUTE:
        say("takes more than a minute", config.changed)


def try_command(config: Config, workdir: pathlib.Path, say: Callable[[str, Any], None]) -> None:
    """A whole command line."""
    name = config.values["method"]["name"] if isinstance(config.values["method"], dict) else CONFIGS[0]
    name = name if name in CONFIGS else CONFIGS[0]
    texts = {".".join(map(str, path)): _text(value) for path, value in config.changed.items()}
    flags = {**{f: v for f, v in BUDGET.items() if f != "method.peers" or name == "mat"}, **texts}
    if any("\0" in text or "\ud800" in text for text in flags.values()):
        return  # no shell can say that
    argv = ["run", f"--config={name}:digits", f"--workdir={workdir}", *(f"--config.{f}={v}" for f, v in flags.items())]
    stopped = False

    def disturb(process: int) -> None:
        nonlocal stopped
        until = time.monotonic() + MINUTE
        while is_running(process) and time.monotonic() < until:
            time.sleep(0.02)
        if is_running(process):
            stopped = True
            os.kill(process, signal.SIGTERM)

    ended = command(argv, disturb, limit=5 * MINUTE)
    if ended.status is None:
        say("does not stop", texts)
    elif ended.status not in ((143,) if stopped else (0, 2)):
        say(f"status {ended.status}: {ended.said[-3:]}", texts)
    elif ended.status and not (len(ended.said) == 1 or stopped):
        say(f"{len(ended.said)} lines: {ended.said[-3:]}", texts)
    elif ended.status == 2 and workdir.exists() and "diverged" not in ended.said[0]:
        say("a new folder", texts)
    shutil.rmtree(workdir, ignore_errors=True)


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:
        return "9" * 5000


if __name__ == "__main__":
    sys.exit(main(sys.argv))
