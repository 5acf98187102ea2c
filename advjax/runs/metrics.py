"""The course of a training on disk: `metrics.jsonl`, and the same numbers as TensorBoard events."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from advjax.files import write_atomically


class MetricsLog:
    """`metrics.jsonl`, one object per line, and the same numbers as TensorBoard events."""

    def __init__(self, workdir: pathlib.Path, step: int, tensorboard: bool = True) -> None:
        """Opens the log, cutting off what lies beyond `step`, the step that the run resumes at."""
        self._path = workdir / "metrics.jsonl"
        kept = [record for record in read_metrics(self._path) if record["step"] <= step]
        self.seconds = kept[-1]["seconds"] if kept else 0.0
        write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in kept))
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
