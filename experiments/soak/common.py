"""What the soaks share: command lines in forked processes that import everything once."""

from __future__ import annotations

import importlib
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command line ended.

    Attributes:
        status: as a shell shows it, 137 for SIGKILL; None if it was still at work when its time was over.
        said: the lines on its error stream.
        seconds: how long it took.
        work: seconds of processor time that it took, which other processes do not change much.
    """

    status: int | None
    said: list[str]
    seconds: float
    work: float

    @property
    def traced(self) -> bool:
        """Whether it printed a traceback."""
        return any(line.startswith("Traceback") for line in self.said)


def load() -> None:
    """Imports what every command needs; no device may be touched before the last fork."""
    import advjax
    import advjax.cli.run

    advjax.data.load("digits")


def command(argv: list[str], disturb: Callable[[int], None] = lambda process: None, limit: float = 3600.0) -> Ended:
    """Runs `experiments.NAME ARGUMENT ...` in a process of its own.

    Args:
        argv: the name and the arguments.
        disturb: called with the process's number while it runs; may wait and send signals.
        limit: seconds after which it is killed.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if not (child := os.fork()):
            _become(argv, out.fileno(), err.fileno())
        disturb(child)
        status, work = _wait(child, started + limit)
        err.seek(0)
        said = [line for line in err.read().decode(errors="replace").splitlines() if line.strip()]
    return Ended(status, said, time.monotonic() - started, work)


def is_running(process: int) -> bool:
    """Whether a child is at work still; it is not reaped."""
    ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended is None


def work_of(process: int) -> float:
    """Seconds of processor time that a child has taken."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _become(argv: list[str], out: int, err: int) -> None:
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        name, *rest = argv
        sys.argv = [name, *rest]  # where ml_collections looks for --config.field=value
        status = importlib.import_module(f"experiments.{name}").main(sys.argv)
        sys.stdout.flush()
        os._exit(status)
    finally:
        os._exit(70)  # main lets nothing through


def _wait(process: int, deadline: float) -> tuple[int | None, float]:
    late = False
    while is_running(process):
        if late := time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            break
        time.sleep(0.02)
    _, status, usage = os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if late else code if code >= 0 else 128 - code, usage.ru_utime + usage.ru_stime


def mounted(folder: pathlib.Path, megabytes: int) -> bool:
    """Mounts a small disk in memory on a new folder; False where the system lets nobody do so."""
    folder.mkdir(parents=True)
    return not os.system(f"mount -t tmpfs -o size={megabytes}m none '{folder}' 2>/dev/null")


def unmount(folder: pathlib.Path) -> None:
    """Takes such a disk away."""
    os.system(f"umount --lazy '{folder}'")
