"""The console scripts: `advjax-train`, `advjax-evaluate` and so on."""

import importlib
import sys


def _run(command: str) -> int:
    return importlib.import_module(f"advjax.cli.{command}").main(sys.argv)


def train() -> int:
    """`python -m experiments.run`."""
    return _run("run")


def evaluate() -> int:
    """`python -m experiments.evaluate`."""
    return _run("evaluate")


def compare() -> int:
    """`python -m experiments.compare`."""
    return _run("compare")


def report() -> int:
    """`python -m experiments.report`."""
    return _run("report")


def sweep() -> int:
    """`python -m experiments.sweep`."""
    return _run("sweep")


def export() -> int:
    """`python -m experiments.export`."""
    return _run("export")


def compile_for() -> int:
    """`python -m experiments.compile_for`."""
    return _run("compile_for")
