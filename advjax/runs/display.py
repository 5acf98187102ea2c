"""What a run says on the terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def _percent(value: float | None) -> str:
    return "   -  " if value is None else f"{100 * value:5.1f}%"


def _accuracies(split: str, record: Mapping[str, Any]) -> str:
    clean, robust = (_percent(record.get(f"{split}_{kind}_accuracy")) for kind in ("clean", "robust"))
    return f"{split} clean {clean} robust {robust}"


def summary(record: Mapping[str, Any]) -> str:
    """One line about a training record: loss, accuracies in training and on held-out images, speed."""
    parts = [
        f"loss {record['loss']:.4f}",
        _accuracies("train", record),
    ]
    if "validation_robust_accuracy" in record:
        parts.append(_accuracies("validation", record))
    parts.append(f"{record['images_per_second']:.0f} images/s")
    return "  ".join(parts)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read the output has gone, which is no reason to stop."""
        self.quiet = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


class Display:
    """Progress on the terminal: a live bar where there is one, plain lines where the output goes elsewhere."""

    def __init__(self, live: bool | None = None) -> None:
        self._console = _Console(highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal if live is None else live
        self._progress: Progress | None = None
        self._next_line = 0.0

    def line(self, text: str) -> None:
        """Prints a line."""
        (self._progress.console if self._progress else self._console).print(text, markup=False)

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Begins a task of `total` units, of which `done` are done."""
        self.stop()
        self._total, self._first, self._started, self._description = total, done, time.perf_counter(), description
        # The first plain line comes soon, so that a long wait is seen to be one.
        self._next_line = self._started + 5.0
        if self._live:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(description, total=total, completed=done, note="")
            self._progress.start()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Says how far the task is, of a total that may have changed; as a plain line only now and then."""
        now = time.perf_counter()
        self._total = total or self._total
        if self._progress:
            self._progress.update(self._task, completed=done, total=self._total, note=note)
        elif now >= self._next_line and done < self._total:
            left = ""
            if done > self._first:
                left = f"{duration((now - self._started) / (done - self._first) * (self._total - done))} left"
            self.line(f"  {self._description} {done}/{self._total}  {note}  {left}".rstrip())
            self._next_line = now + 15.0

    def stop(self) -> None:
        """Ends the task."""
        if self._progress:
            self._progress.stop()
            self._progress = None


class Silent(Display):
    """Says nothing, as all processes of a run do but one."""

    def __init__(self) -> None:
        super().__init__(live=False)
        self._console.quiet = True


def duration(seconds: float) -> str:
    """Seconds as 1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
