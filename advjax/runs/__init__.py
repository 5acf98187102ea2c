"""Runs: from a config to its report. `default` makes a config, `finish` does what it says, `load_run` gives a network."""

from advjax.runs.build import build
from advjax.runs.finish import finish
from advjax.runs.schema import Config, default, read
from advjax.runs.workdir import load_run

__all__ = ["Config", "build", "default", "finish", "load_run", "read"]
