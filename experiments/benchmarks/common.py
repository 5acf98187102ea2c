"""What the benchmarks share: timing of alternatives side by side, tables, JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from advjax.errors import InputError

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 3, "timed repetitions of each alternative, after one that is not counted")
flags.DEFINE_string("results", "", "also write the results to this file")


def parse() -> None:
    """Parses the flags; one clear line and status 2 if they are wrong."""
    try:
        FLAGS(sys.argv)
    except flags.Error as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs a benchmark; bad input is one line and status 2."""
    parse()
    try:
        main()
    except InputError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)


def hardware() -> dict[str, Any]:
    """What the figures were measured on, and with which versions."""
    device = jax.devices()[0]
    versions = {}
    for package in ("jax", "jaxlib", "flax", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "machine": platform.machine(),
        "cpu_cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions,
    }


class CompileTime:
    """The `seconds` that JAX has spent on tracing and compiling since this was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs


class Report:
    """Tables of one benchmark: every row is printed, and written to `--results`, as soon as it is known.

    Args:
        title: what is measured, with the sizes.
    """

    def __init__(self, title: str) -> None:
        self._columns: tuple[str, ...] = ()
        self.content: dict[str, Any] = {
            "title": title,
            "command": " ".join(["python", "-m", _module(), *map(_without_folders, sys.argv[1:])]),
            "hardware": hardware(),
            "tables": {},
        }
        print(f"{title}\n{self.content['hardware']}")

    def add(self, table: str, **row: Any) -> None:
        """Adds a row to a table; values are text, whole numbers or floats."""
        new = table not in self.content["tables"]
        self.content["tables"].setdefault(table, []).append(row)
        if new:
            print(f"\n{table}\n")
        if new or tuple(row) != self._columns:
            self._columns = tuple(row)
            print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
        print("| " + " | ".join(map(_cell, row.values())) + " |", flush=True)
        if FLAGS.results:
            path = pathlib.Path(FLAGS.results)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.content, indent=2) + "\n")


def _without_folders(argument: str) -> str:
    """--flag=file for --flag=folder/file: where a file lies on this machine is nobody else's concern."""
    flag, is_assigned, value = argument.partition("=")
    return flag + is_assigned + value.rpartition("/")[2]


def _module() -> str:
    return f"experiments.benchmarks.{pathlib.Path(sys.argv[0]).stem}"


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def measure(forms: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each alternative: the `first` call (with compilation), `median`, `min`, `max` and all further `times`.

    The alternatives take turns, so that a machine that slows down slows them all.
    """
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for name, form in forms.items():
        started = time.perf_counter()
        jax.block_until_ready(form())
        first[name] = time.perf_counter() - started
    for _ in range(repeats):
        for name, form in forms.items():
            started = time.perf_counter()
            jax.block_until_ready(form())
            times[name].append(time.perf_counter() - started)
    return {
        name: {"first": first[name], "median": float(np.median(t)), "min": min(t), "max": max(t), "times": t}
        for name, t in times.items()
    }


def seconds(times: Mapping[str, Any]) -> dict[str, float]:
    """The columns of one alternative's times, `measure(...)[NAME]`."""
    return {
        "median s": times["median"],
        "min s": times["min"],
        "max s": times["max"],
        "first call s": times["first"],
    }


def over(times: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """How many times as long as the reference, the median over the turns: what slows a whole turn cancels."""
    return float(np.median(np.divide(times["times"], reference["times"])))


def compare(title: str, forms: Mapping[str, Callable[[], Any]]) -> None:
    """Measures alternatives and reports them as a table, the fastest as 1."""
    report, results = Report(title), measure(forms, FLAGS.repeats)
    fastest = min(results.values(), key=lambda row: row["median"])
    for name, row in results.items():
        report.add(title, form=name, **seconds(row), ratio=over(row, fastest))


def growth(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """How positive y grow with x: least-squares line a + b x, the largest relative deviation from it, and power of x."""
    b, a = np.polyfit(x, y, 1)
    deviation = np.max(np.abs(a + b * np.asarray(x) - y) / y)
    power = np.polyfit(np.log(x), np.log(y), 1)[0]
    return {"at 0": float(a), "per unit": float(b), "deviation": float(deviation), "power": float(power)}
