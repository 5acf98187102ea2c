"""Evaluation: protocols, one outcome per example, reports."""

from advjax.evaluate.attack_dataset import Outcome, attack_dataset, per_example, run_protocol
from advjax.evaluate.benchmark import Benchmark, benchmark
from advjax.evaluate.figures import calibration_error, figures_of_merit
from advjax.evaluate.protocols import PROTOCOLS, Attack, clean, loss_attack, pgd_attack, pgd_steps, protocol
from advjax.evaluate.report import (
    assemble,
    markdown,
    mean_over_networks,
    params_sha256,
    result_row,
    warnings,
)

__all__ = [
    "PROTOCOLS",
    "Attack",
    "Benchmark",
    "Outcome",
    "assemble",
    "attack_dataset",
    "benchmark",
    "calibration_error",
    "clean",
    "figures_of_merit",
    "loss_attack",
    "markdown",
    "mean_over_networks",
    "params_sha256",
    "per_example",
    "pgd_attack",
    "pgd_steps",
    "protocol",
    "result_row",
    "run_protocol",
    "warnings",
]
