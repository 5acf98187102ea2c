"""The course of a training on disk: `metrics.jsonl`, and whatever else is to write it."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from advjax import plugins
from advjax.errors import InputError
from advjax.files import named, write_atomically


class Writer(Protocol):
    """What takes the records of a training: `package.module:Class`, made as `Class(workdir, step)`.

    `step` is the step that the run resumes at; later records of an earlier attempt are void.
    """

    def write(self, record: Mapping[str, Any]) -> None:
        """Takes a record: `step`, `epoch`, `seconds`, `loss` and more, numbers by name."""

    def close(self) -> None:
        """No record comes after."""


class TensorBoard:
    """TensorBoard events in the folder `tensorboard`."""

    def __init__(self, workdir: pathlib.Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of the record as a scalar."""
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "step":
                self._events.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Closes the file."""
        self._events.close()


def make_writers(names: Sequence[str]) -> list[type[Writer]]:
    """The classes of writers by name; looked up before a run begins.

    Raises:
        InputError: no such class.
    """
    try:
        found = [plugins.resolve(name, "writer") for name in names]
    except InputError as error:
        raise InputError(f"log.writers: {error}") from None
    for name, cls in zip(names, found, strict=True):
        if not all(hasattr(cls, each) for each in ("write", "close")):
            raise InputError(f"must have the methods write and close, {name} has not", "log.writers")
    return found


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


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; none if it is missing, and none from a line on that is no whole record."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            whole = all(isinstance(record[name], (int, float)) for name in ("step", "seconds"))
        except (ValueError, KeyError, TypeError):
            break
        if not whole:
            break
        records.append(record)
    return records
