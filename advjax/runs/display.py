"""What a run says of itself: `metrics.jsonl`, TensorBoard events, and the terminal."""

from __future__ import annotations

import json
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class MetricsLog:
    """`metrics.jsonl`, one object per line, and the same numbers as TensorBoard events."""

    def __init__(self, workdir: pathlib.Path, step: int, tensorboard: bool = True) -> None:
        """Opens the log, cutting off what lies beyond `step`, the step that the run resumes at."""
        self._path = workdir / "metrics.jsonl"
        kept = [record for record in read_metrics(self._path) if record["step"] <= step]
        self.seconds = kept[-1]["seconds"] if kept else 0.0
        self._path.write_text("".join(json.dumps(record) + "\n" for record in kept))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record, which has at least `step`, and gets it to the disk."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._events:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._events.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Closes files."""
        self._file.close()
        if self._events:
            self._events.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; none if it is missing, and none from a line on that a crash cut off."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


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


class Display:
    """Progress on the terminal: a live bar where there is one, plain lines where the output goes elsewhere."""

    def __init__(self, live: bool | None = None) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
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
            sys.stdout.flush()

    def stop(self) -> None:
        """Ends the task."""
        if self._progress:
            self._progress.stop()
            self._progress = None


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
