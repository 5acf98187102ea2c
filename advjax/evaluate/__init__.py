"""Evaluation: protocols, one outcome per example, reports."""

from advjax.evaluate.protocols import PROTOCOLS, Attack, clean, pgd_attack, pgd_steps, protocol
from advjax.evaluate.report import (
    assemble,
    markdown,
    mean_over_networks,
    params_sha256,
    result_row,
    warnings,
)
from advjax.evaluate.run import Outcome, per_example, run_attack, run_protocol

__all__ = [
    "PROTOCOLS",
    "Attack",
    "Outcome",
    "assemble",
    "clean",
    "markdown",
    "mean_over_networks",
    "params_sha256",
    "per_example",
    "pgd_attack",
    "pgd_steps",
    "protocol",
    "result_row",
    "run_attack",
    "run_protocol",
    "warnings",
]
