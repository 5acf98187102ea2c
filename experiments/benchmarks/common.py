"""What the benchmarks share: timing of alternatives side by side, a table, JSON."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 3, "timed repetitions of each alternative, after one that is not counted")
flags.DEFINE_string("json", "", "also write the results to this file")


def parse() -> None:
    """Parses the flags; one clear line and status 2 if they are wrong."""
    try:
        FLAGS(sys.argv)
    except flags.Error as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu_cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def measure(forms: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each alternative: the first call (with compilation), then median, least and most of `repeats`.

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
        name: {"first": first[name], "median": float(np.median(t)), "min": min(t), "max": max(t)}
        for name, t in times.items()
    }


def compare(title: str, forms: Mapping[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Measures alternatives and prints them as a table, the fastest as 1.00."""
    results = measure(forms, FLAGS.repeats)
    fastest = min(row["median"] for row in results.values())
    width = max(map(len, results))
    print(f"{title}\n{hardware()}\n")
    print(f"{'':<{width}}  {'median s':>9} {'min':>8} {'max':>8} {'ratio':>6} {'first call':>10}")
    for name, row in results.items():
        figures = f"{row['median']:9.3f} {row['min']:8.3f} {row['max']:8.3f} {row['median'] / fastest:6.2f}"
        print(f"{name:<{width}}  {figures} {row['first']:10.2f}")
    if FLAGS.json:
        content = {"title": title, "hardware": hardware(), "results": results}
        pathlib.Path(FLAGS.json).write_text(json.dumps(content, indent=2) + "\n")
    return results
