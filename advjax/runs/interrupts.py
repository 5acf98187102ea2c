"""Being told to stop, and being alone in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import filelock

from advjax.errors import InUse, Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOCK = ".lock"


class Interrupts:
    """Remembers a signal, so that the work can end where nothing is lost. A second one ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def take(self, number: int, frame: Any) -> None:
        """The handler."""
        del frame
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    @property
    def name(self) -> str:
        """Name of the signal that came."""
        return signal.Signals(self.signal).name if self.signal is not None else ""

    def obey(self, what: str) -> None:
        """Raises `Stopped` if a signal came during `what`, nothing of which is to be saved."""
        if number := self.signal:
            said = f"stopped by {self.name} during {what}; the same command goes on where it was"
            raise Stopped(number, said)


@contextlib.contextmanager
def listening() -> Iterator[Interrupts]:
    """Takes SIGTERM (pre-emption) and SIGINT while it lasts; in another thread than the main one nothing can be taken."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts.take) for number in SIGNALS}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; the lock of a process that was killed is gone with it.

    Raises:
        InUse: another process is at work there; says which, since when.
    """
    lock, said = filelock.FileLock(folder / LOCK), folder / f"{LOCK}.json"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InUse(f"workdir {folder} is in use{_by(said)}: wait for it, or choose another --workdir") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        said.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        said.unlink(missing_ok=True)
        lock.release()


def _by(said: pathlib.Path) -> str:
    try:
        who = json.loads(said.read_text())
        return f" by process {who['process']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"
