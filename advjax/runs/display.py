"""What a run says on the terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table


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
    """Progress on the terminal: a live bar where there is one, plain lines where the output goes elsewhere.

    `form` is how much is said: `text` everything, `quiet` warnings and the table of results only, `json` everything as
    one JSON object a line, with its kind as `event`.
    """

    def __init__(self, live: bool | None = None, form: str = "text") -> None:
        self._console = _Console(highlight=False, soft_wrap=True)
        self._form = form
        self._live = form == "text" and (self._console.is_terminal if live is None else live)
        self._progress: Progress | None = None
        self._next_line = 0.0

    def line(self, text: str) -> None:
        """Prints a line."""
        self.event("note", text, text=text)

    def warning(self, text: str) -> None:
        """Prints a warning."""
        self.event("warning", f"warning: {text}", text=text)

    def event(self, kind: str, text: str, /, **values: Any) -> None:
        """Says that something happened: `text` to people, `values` as JSON."""
        if self._form == "json":
            self._console.print(json.dumps({"event": kind, **values}), markup=False, emoji=False)
        elif self._form == "text" or kind == "warning":
            (self._progress.console if self._progress else self._console).print(text, markup=False, emoji=False)

    def header(self, **values: str) -> None:
        """What is about to be done, a line each."""
        width = max(map(len, values)) + 2
        self.event("run", "\n".join(f"{name.replace('_', ' '):<{width}}{v}" for name, v in values.items()), **values)

    def results(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of a report as a table: attacks down, networks and checkpoints across."""
        if self._form == "json":
            return  # each row was said when it was known
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("attack")
        subjects = list(dict.fromkeys((row["network"], row["checkpoint"]) for row in rows))
        for network, checkpoint in subjects:
            table.add_column(f"{network} ({checkpoint})", justify="right")
        accuracy = {(row["attack"], row["network"], row["checkpoint"]): row["accuracy"] for row in rows}
        for attack in dict.fromkeys(row["attack"] for row in rows):
            cells = [_percent(accuracy.get((attack, *subject))).strip() for subject in subjects]
            table.add_row(attack, *cells)
        self._console.print(table)

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Begins a task of `total` units, of which `done` are done; it compiles until the first `update`."""
        self.stop()
        self._total, self._description, self._begun = total, description, time.perf_counter()
        # From where the time left is reckoned: the first `update`, since compiling before it says nothing of what comes.
        self._base: tuple[int, float] | None = None
        self._next_line = self._begun + 5.0
        if self._live:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(description, total=total, completed=done, note="compiling")
            self._progress.start()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Says how far the task is, of a total that may have changed; as a plain line only now and then."""
        now = time.perf_counter()
        self._total = total or self._total
        if self._base is None or done < self._base[0]:
            self._base = done, now
        elif done > self._base[0]:
            left = (now - self._base[1]) / (done - self._base[0]) * (self._total - done)
            note = f"{note}  {duration(left)} left".strip()
        if self._progress:
            self._progress.update(self._task, completed=done, total=self._total, note=note)
        elif now >= self._next_line and done < self._total:
            self.event(
                "progress", f"  {self._description} {done}/{self._total}  {note}".rstrip(),
                task=self._description, done=done, total=self._total, note=note,
            )  # fmt: skip
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
