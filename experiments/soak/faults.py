"""Faults at random moments: killed, told to stop, out of space, or robbed of half a checkpoint, a run ends as it would have.

    python -m experiments.soak.faults --out=runs/soak --moments=50

Runs `bmtard` (whose two teachers are trained first), `sglr` and `mat` on digits, each once in peace, then again and again
with up to three faults each, at moments drawn from all of its work: teachers, training, saving, evaluation. After
a fault the same command is repeated. At the end parameters, metrics and report must be those of the run in peace, but
for times, and for the warning that names a damaged checkpoint; a signal and a full disk must have said so in one line.
One line a fault and a run go to OUT/outcomes.jsonl. A full disk is a small one in memory that needs the right to mount
(root); elsewhere that fault is left out.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time
from typing import Any

from experiments.soak.common import Ended, command, is_running, load, mounted, unmount, work_of

METHODS = {
    "bmtard": ("--config.teachers.clean.train.epochs=5", "--config.teachers.robust.train.epochs=5"),
    "sglr": (),
    "mat": (),
}
BUDGET = (
    "--config.epochs=3",
    "--config.batch_size=100",
    "--config.data.examples=400",
    "--config.attack.steps=2",
    "--config.validation.steps=1",
    "--config.checkpoint.every_minutes=0.002",
    "--config.evaluation.examples=60",
    "--config.log.tensorboard=False",
)
FAULTS = ("kill", "terminate", "interrupt", "full", "cut")
DISK = 64  # megabytes
TIMING = ("seconds", "images_per_second")


def main(argv: list[str]) -> int:
    """Runs the soak; status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for runs and outcomes; must not exist")
    parser.add_argument("--moments", type=int, default=50, help="faults to try")
    parser.add_argument("--seed", type=int, default=0, help="of methods, faults and moments")
    options = parser.parse_args(argv[1:])
    out = pathlib.Path(options.out).absolute()
    out.mkdir(parents=True)
    load()
    disk = out / "disk"
    faults = FAULTS if (small := mounted(disk, DISK)) else tuple(fault for fault in FAULTS if fault != "full")
    try:
        return _soak(Soak(out, disk, faults, random.Random(options.seed)), options.moments)
    finally:
        if small:
            unmount(disk)


def _soak(soak: Soak, moments: int) -> int:
    peace = {method: soak.in_peace(method) for method in METHODS}
    while soak.moments < moments:
        soak.disturbed(soak.random.choice(list(METHODS)), peace)
    counts = collections.Counter(f"{each['method']} {each['fault']}" for each in soak.outcomes if "fault" in each)
    lost = [each for each in soak.outcomes if each["wrong"]]
    runs = sum("run" in each for each in soak.outcomes)
    soak.say({"moments": soak.moments, "runs": runs, "wrong": len(lost), "by_fault": counts})
    return int(bool(lost))


class Soak:
    """Runs with faults, and what came of them."""

    def __init__(self, out: pathlib.Path, disk: pathlib.Path, faults: tuple[str, ...], random: random.Random) -> None:
        self.out, self.disk, self.faults, self.random = out, disk, faults, random
        self.moments = 0
        self.outcomes: list[dict[str, Any]] = []

    def say(self, outcome: dict[str, Any]) -> None:
        """Writes a line."""
        self.outcomes.append({"wrong": "", **outcome})
        line = json.dumps(outcome)
        print(line, flush=True)
        with open(self.out / "outcomes.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def argv(self, method: str, workdir: pathlib.Path) -> list[str]:
        """The command line of a run."""
        config = f"--config=experiments/configs/{method}.py:digits"
        return ["run", config, f"--workdir={workdir}", *BUDGET, *METHODS[method]]

    def in_peace(self, method: str) -> tuple[Any, float]:
        """What an undisturbed run leaves, and the processor's seconds that it takes with its programs compiled."""
        for name in ("first", "second"):
            workdir = self.out / f"{method}-{name}"
            ended = command(self.argv(method, workdir))
            if ended.status != 0:
                raise SystemExit(f"{method} fails in peace: {ended}")
        first, second = left(self.out / f"{method}-first"), left(self.out / f"{method}-second")
        self.say({"peace": method, "work": ended.work, "wrong": "" if first == second else "two runs differ"})
        return first, ended.work

    def disturbed(self, method: str, peace: dict[str, Any]) -> None:
        """A run with up to three faults, compared with the one in peace."""
        expected, work = peace[method]
        workdir = self.disk / f"{method}-{self.moments}"
        faults = []
        for count in range(self.random.randint(1, 3)):
            # What is done is not done again.
            fault, moment = self.random.choice(self.faults), self.random.uniform(0.05, 0.95 - 0.2 * count) * work
            ended, hit = self.attempt(method, workdir, fault, moment)
            if not hit:
                break
            faults.append(fault)
            self.moments += 1
            wrong = _wrong(fault, ended)
            self.say(
                {
                    "method": method,
                    "fault": hit,
                    "moment": round(moment, 2),
                    "status": ended.status,
                    "said": ended.said[-3:],
                    "wrong": wrong,
                }
            )
        if hit:
            ended = command(self.argv(method, workdir))
        wrong = f"status {ended.status}: {ended.said[-3:]}" if ended.status else ""
        if not wrong:
            found = left(workdir)
            wrong = ", ".join(name for name in expected if expected[name] != found[name])
        self.say({"run": method, "faults": faults, "params": expected["params"], "wrong": wrong})
        if wrong:
            shutil.copytree(workdir, self.out / "wrong" / workdir.name)
        shutil.rmtree(workdir, ignore_errors=True)

    def attempt(self, method: str, workdir: pathlib.Path, fault: str, moment: float) -> tuple[Ended, str]:
        """The command with a fault after so many seconds of work; the fault that came, empty where it ended before."""
        hit, ballast = "", self.disk / "ballast"

        def disturb(process: int) -> None:
            nonlocal hit
            while is_running(process) and work_of(process) < moment:
                time.sleep(0.005)
            if not is_running(process):
                return
            hit = fault
            if fault == "full":
                fill(ballast)
            else:
                numbers = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
                os.kill(process, numbers.get(fault, signal.SIGKILL))

        try:
            ended = command(self.argv(method, workdir), disturb)
        finally:
            ballast.unlink(missing_ok=True)
        if hit == "cut" and not cut_newest(workdir):
            hit = "kill"
        return ended, hit


def _wrong(fault: str, ended: Ended) -> str:
    """What is wrong with how a disturbed process ended."""
    # A signal may come before Python listens; then the system ends the process.
    allowed = {"terminate": (143,), "interrupt": (130,), "full": (0, 1, 2)}.get(fault, (137,))
    if ended.status not in allowed:
        return f"status {ended.status}"
    if fault == "full" and ended.status and len(ended.said) != 1:
        return f"{len(ended.said)} lines"
    return "a traceback" if ended.traced else ""


def fill(ballast: pathlib.Path) -> None:
    """Leaves no space on a disk; what a process writes at the same time, it may still get in."""
    with open(ballast, "wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def cut_newest(workdir: pathlib.Path) -> bool:
    """Cuts the largest file of the newest checkpoint in half, where there is an older one."""
    folders = [folder for folder in workdir.rglob("checkpoints") if folder.is_dir()]
    kept = {folder: sorted(int(each.name) for each in folder.iterdir() if each.name.isdigit()) for folder in folders}
    several = [folder for folder, steps in kept.items() if len(steps) > 1]
    if not several:
        return False
    folder = max(several, key=lambda each: each.stat().st_mtime)
    files = [path for path in (folder / str(kept[folder][-1])).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return True


def left(workdir: pathlib.Path) -> dict[str, Any]:
    """What a run leaves, without times and without what tells of a damaged checkpoint."""
    report = json.loads((workdir / "report.json").read_text())
    networks = {name: each["params_sha256"] for name, each in report["networks"].items()}
    report["warnings"] = [each for each in report["warnings"] if "damaged" not in each]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "params": networks,
        "report": _without(report, TIMING),
        "metrics": [_without(line, TIMING) for line in lines],
        "teachers": json.loads((workdir / "teachers.json").read_text()) if (workdir / "teachers.json").exists() else {},
    }


def _without(content: Any, names: tuple[str, ...]) -> Any:
    if isinstance(content, dict):
        return {name: _without(value, names) for name, value in content.items() if name not in names}
    return [_without(each, names) for each in content] if isinstance(content, list) else content


if __name__ == "__main__":
    sys.exit(main(sys.argv))
