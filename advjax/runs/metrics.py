"""The course of a training on disk: `metrics.jsonl`, and whatever else is to write it."""

from __future__ import annotations

import json
import math
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from advjax.files import named, write_atomically
from advjax.runs.writers import Writer


class MetricsLog:
    """`metrics.jsonl`, one object per line, and the writers, which get the same records."""

    def __init__(self, workdir: pathlib.Path, step: int, writers: Sequence[type[Writer]] = ()) -> None:
        """Opens the log, cutting off what lies beyond `step`, the step that the run resumes at."""
        self._path = path = workdir / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        self.seconds = kept[-1]["seconds"] if kept else 0.0
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._writers = [make(workdir, step) for make in writers]  # type: ignore[call-arg]

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record, which has at least `step`, and gets it to the disk."""
        with named(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        for writer in self._writers:
            writer.write(record)

    def close(self) -> None:
        """Closes files."""
        with named(self._path):
            self._file.close()
        for writer in self._writers:
            writer.close()


class NoLog:
    """The log of a process that does not write, since another one of the run does."""

    seconds = 0.0

    def write(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, none if it is missing.

    A line that is no whole record is left out: the last one, which a kill may have cut, in silence, others with a warning.
    """
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    damaged: list[int] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            counts = all(type(record[name]) is int and 0 <= record[name] < 2**63 for name in ("step", "epoch"))
            numbers = all(isinstance(value, (int, float)) for value in record.values()) and [
                *map(float, record.values())
            ]
            whole = counts and numbers and 0 <= record["seconds"] < math.inf
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            whole = False
        # After a line that should have ended the log, older steps may follow.
        if whole and (not records or record["step"] > records[-1]["step"]):
            records.append(record)
        else:
            damaged.append(number)
    if inside := [number for number in damaged if number < len(lines)]:
        warnings.warn(f"{path}: line {inside[0]} is damaged and left out ({len(inside)} of {len(lines)})", stacklevel=2)
    return records
