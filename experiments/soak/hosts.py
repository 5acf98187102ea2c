"""Several processes on this machine train, evaluate, stop, die and go on as one; the outcome is compared with one process.

    python -m experiments.soak.hosts --root=/tmp/hosts                       # everything
    python -m experiments.soak.hosts --root=/tmp/hosts --layouts=2x1 --methods=pgd_at,sglr
    python -m experiments.soak.hosts --root=/tmp/hosts --training --layouts=4x2             # without signals and attacks

A layout is PROCESSES x DEVICES of each. Processes talk over the loopback address and simulate their devices on the CPU.
With --float64 all training is in float64, where one process and several differ by rounding alone, far below what flips
the sign of an attack's gradient: a difference that is left is an error.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

METHODS = "pgd_at,dynat,sglr,bmtard,mat"
LAYOUTS = "2x1,2x2,4x1,4x2"
STEPS_PER_EPOCH = 3
TOLERANCE = 1e-5
TOLERANCE_FLOAT64 = 1e-12


def config(method: str, **fields: Any) -> Any:
    """The method's recipe for digits, made tiny: a few steps of a network of eight channels; AutoAttack on a few images."""
    from advjax import cli

    made = cli.load_config(f"{method}:digits")
    _shrink(made)
    for teacher in made.teachers.values():
        _shrink(teacher.train)
        teacher.train.epochs = 10  # no longer near chance, or it is refused
        teacher.network.update({"name": "tiny_cnn", "width": 8})
    made.data.update({"validation": 24, "examples": 184})
    made.evaluation.update({"protocol": "experiments.soak.hosts:tiny", "examples": 13})
    made.log.tensorboard, made.hosts_timeout = False, 10.0
    for name, value in fields.items():
        cli.assign(made, name, str(value))
    return made


def _shrink(made: Any) -> None:
    made.epochs, made.batch_size = 5, 64
    made.validation.update({"every": 1, "steps": 1})
    if "network" in made:
        made.network.update({"name": "tiny_cnn", "width": 8})
    for network in made.get("networks", {}).values():
        if network.name:  # empty: that of all
            network.update({"name": "tiny_cnn", "width": 8})
    if made.attack.steps:
        made.attack.steps = 2


def tiny(norm: str, eps: Any) -> tuple[Any, ...]:
    """A protocol: clean, PGD, and AutoAttack's four attacks with few queries."""
    from advjax.evaluate import protocols

    cascade = protocols.stages("autoattack", norm, eps, "apgd_ce", "apgd_t", "fab_t", "square_20")
    return protocols.clean(norm, eps), protocols.pgd_steps(10, norm, eps), cascade


class Job(NamedTuple):
    """What all processes of a group do, one after the other.

    Attributes:
        method: its name.
        workdir: folder of the run.
        fields: of its config, as the command line has them.
        signal: what process `victim` gets after `step` steps, or after `-step` attempts of AutoAttack; 0: nothing.
        step: see above.
        victim: see above.
        differs: fields that the victim's config has otherwise; `workdir`: its folder.
    """

    method: str
    workdir: str
    fields: Mapping[str, Any] = {}
    signal: int = 0
    step: int = 0
    victim: int = 1
    differs: Mapping[str, Any] = {}


def work(jobs: Sequence[Job], place: str, index: int) -> None:
    """What a process does: `runs.finish` for every job."""
    from advjax import runs

    autoattack = importlib.import_module("advjax.attacks.autoattack")
    from advjax.training import Trainer

    steps, settle = Trainer.steps, autoattack._Cascade._settle
    settled = 0

    def hit(job: Job) -> Any:
        def stepping(self, *args, **options):
            for step in steps(self, *args, **options):
                yield step
                if job.signal and step[0] == job.step and index == job.victim:
                    os.kill(os.getpid(), job.signal)

        return stepping

    def settling(self, *args):
        nonlocal settled
        settle(self, *args)
        settled += 1
        if job.signal and settled == -job.step and index == job.victim:
            os.kill(os.getpid(), job.signal)

    autoattack._Cascade._settle = settling  # type: ignore[method-assign]
    for job in jobs:
        own = dict(job.differs) if index == job.victim else {}
        workdir = own.pop("workdir", job.workdir)
        Trainer.steps = hit(job)  # type: ignore[method-assign]
        runs.finish(config(job.method, **{**job.fields, **own, "hosts": place}), workdir)


def in_float64() -> None:
    """From here on what is float32 in training is float64; before advjax is imported."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64  # type: ignore[misc,assignment]
    from advjax import models

    create = models.create
    models.create = lambda *args, **options: create(*args, **{**options, "dtype": "float64"})  # type: ignore[assignment]


class Ended(NamedTuple):
    """How a process ended, and what it said."""

    status: int
    out: str
    err: str


def group(
    jobs: Sequence[Job], processes: int, devices: int, timeout: float = 600.0, *, float64: bool = False
) -> list[Ended]:
    """Runs jobs on so many processes of so many devices each, and waits for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Threads of a process: how a sum is cut, and so rounded, must not depend on the layout.
        "NPROC": "8",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
    }
    several = [f"127.0.0.1:{port},{processes},{index}" if processes > 1 else "off" for index in range(processes)]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "experiments.soak.hosts",
                *["--float64"] * float64,
                "--worker",
                json.dumps([jobs, place, index]),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index, place in enumerate(several)
    ]
    deadline, ended = time.monotonic() + timeout, []
    try:
        for process in started:
            out, err = process.communicate(timeout=max(deadline - time.monotonic(), 1))
            ended.append(Ended(process.returncode, out, err))
    finally:
        for process in started:
            process.kill()
    return ended


def difference(one: str | pathlib.Path, other: str | pathlib.Path) -> float:
    """The largest difference between the last parameters and statistics of two runs, over all networks."""
    import jax
    import numpy as np

    from advjax.runs.workdir import open_checkpoints

    loaded = []
    for place in (one, other):
        checkpoints = open_checkpoints(place)
        assert checkpoints.last is not None, place
        loaded.append(checkpoints.restore_networks(checkpoints.last))
        checkpoints.close()
    worst = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b), initial=0.0)), *loaded)
    return max(jax.tree.leaves(worst))


def verdicts(workdir: str | pathlib.Path) -> Any:
    """What the report says of every attack, without what may differ between two runs."""
    report = json.loads((pathlib.Path(workdir) / "report.json").read_text())
    return [{k: v for k, v in row.items() if k not in ("seconds", "device")} for row in report["results"]]


def alike(one: Any, other: Any) -> bool:
    """Whether reports say the same, calibration to rounding."""
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, (int, float)) and isinstance(other, (int, float)) and abs(one - other) < 1e-3
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


class Findings:
    """A table of what was tried, printed while it grows."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, what: str, right: bool, shown: Any = "") -> None:
        self.failed += not right
        print(f"{'ok    ' if right else 'FAILED'}  {what}  {shown}".rstrip(), flush=True)


def succeeded(ended: Sequence[Ended]) -> None:
    """Raises unless all processes ended well."""
    for index, each in enumerate(ended):
        if each.status:
            raise SystemExit(f"process {index}: status {each.status}\n{each.out}\n{each.err}")


def compare(
    root: pathlib.Path, methods: Sequence[str], layouts: Sequence[tuple[int, int]], timeout: float, *, float64: bool
) -> int:
    """Training alone, one process against several and these, in float32, against themselves; the number that differ."""
    say, tolerance = Findings(), TOLERANCE_FLOAT64 if float64 else TOLERANCE
    fields = {"evaluation.protocol": "clean", "hosts_timeout": 60.0}
    for processes, devices in layouts:
        name, total = f"{processes}x{devices}", processes * devices
        several, again, alone = root / name, root / f"{name}-again", root / f"1x{total}"
        for place, number in ((alone, 1), (several, processes), (again, 0 if float64 else processes)):
            jobs = [Job(each, str(place / each), fields) for each in methods if not (place / each).exists()]
            if number and jobs:
                succeeded(group(jobs, number, total // number, timeout, float64=float64))
        for each in methods:
            off = difference(several / each, alone / each)
            say(f"{name} {each}: as one process{', in float64' * float64}", off <= tolerance, f"{off:.1e}")
            if not float64:
                say(f"{name} {each}: repeats to the bit", difference(several / each, again / each) == 0)
    return say.failed


def soak(root: pathlib.Path, methods: Sequence[str], layouts: Sequence[tuple[int, int]], timeout: float) -> int:
    """Everything; the number of findings that are not as they should be."""
    say, together = Findings(), functools.partial(group, timeout=timeout)
    for processes, devices in layouts:
        name, total = f"{processes}x{devices}", processes * devices
        here, alone = root / name, root / f"1x{total}"
        missing = [Job(each, str(alone / each)) for each in methods if not (alone / each / "report.json").exists()]
        if missing:
            succeeded(together(missing, 1, total))
        for folder in (here / "a", here / "b"):
            succeeded(together([Job(each, str(folder / each)) for each in methods], processes, devices))
        for each in methods:
            one, two = here / "a" / each, here / "b" / each
            say(f"{name} {each}: as one process", (off := difference(one, alone / each)) <= TOLERANCE, f"{off:.1e}")
            say(f"{name} {each}: repeats to the bit", difference(one, two) == 0 and verdicts(one) == verdicts(two))
            say(f"{name} {each}: verdicts as of one process", alike(verdicts(one), verdicts(alone / each)))
        for each in methods:
            place = here / "stopped" / each
            ended = together([Job(each, str(place), {}, signal.SIGTERM, STEPS_PER_EPOCH + 1)], processes, devices)
            statuses = [process.status for process in ended]
            say(f"{name} {each}: all stop", statuses == [128 + signal.SIGTERM] * processes, statuses)
            succeeded(together([Job(each, str(place))], 1, total))
            off = difference(place, alone / each)
            say(f"{name} {each}: one process goes on", off <= TOLERANCE, f"{off:.1e}")
        for number in (signal.SIGTERM, signal.SIGKILL):
            place = here / f"evaluation-{number.name}"
            ended = together([Job(methods[0], str(place), {}, number, -9)], processes, devices)
            say(
                f"{name}: {number.name} in the evaluation",
                all(each.status for each in ended),
                [e.status for e in ended],
            )
            succeeded(together([Job(methods[0], str(place))], 1, total))
            say(f"{name}: one process goes on with it", alike(verdicts(place), verdicts(alone / methods[0])))
        for victim in (0, processes - 1):
            place, started = here / f"died-{victim}", time.monotonic()
            job = Job(methods[0], str(place), {}, signal.SIGKILL, STEPS_PER_EPOCH + 1, victim)
            ended = together([job], processes, devices)
            lines = [each.err.strip().splitlines()[-1] for each in ended if each.status == 1]
            told = len(lines) == processes - 1 and all(f"process {victim} of {processes}" in line for line in lines)
            say(f"{name}: process {victim} killed", told, f"{time.monotonic() - started:.0f} s in all; {lines}")
            succeeded(together([Job(methods[0], str(place))], processes, devices))
            off = difference(place, alone / methods[0])
            say(f"{name}: goes on after process {victim} was killed", off <= TOLERANCE, f"{off:.1e}")
    return say.failed


def main(argv: list[str]) -> int:
    """0 if all is as it should be, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the runs")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--layouts", default=LAYOUTS, help="PROCESSESxDEVICES,...")
    parser.add_argument("--training", action="store_true", help="only what training ends in, undisturbed")
    parser.add_argument("--float64", action="store_true", help="the same, of one process and several, in float64")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a group of processes may take")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv[1:])
    if options.worker:
        if options.float64:
            in_float64()
        from advjax import cli

        jobs, place, index = json.loads(options.worker)
        return cli.guarded(lambda _: work([Job(*job) for job in jobs], place, index), [])
    layouts = [tuple(map(int, layout.split("x"))) for layout in options.layouts.split(",")]
    if options.float64:
        in_float64()  # or what they saved cannot be read
    given: Any = pathlib.Path(options.root), options.methods.split(","), layouts, options.timeout
    failed = compare(*given, float64=options.float64) if options.training or options.float64 else soak(*given)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
