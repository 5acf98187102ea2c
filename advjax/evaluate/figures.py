"""Figures of merit: what a report says of a network in a handful of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.evaluate.corruptions import KINDS

# Name -> what the column of a table is called; all are shares, shown in percent.
FIGURES = {
    "clean_accuracy": "clean",
    "robust_accuracy": "robust",
    "w_robust": "W-Robust",
    "nrr": "NRR",
    "generalisation_gap": "gap",
    "ece": "ECE",
    "ece_robust": "ECE under attack",
    "mean_corruption_error": "mCE",
}


def harmonic_mean(one: float, other: float) -> float:
    """Of two shares; 0 where either is 0. Of clean and robust accuracy it is NRR, the natural-robustness ratio."""
    return 2.0 * one * other / (one + other) if one > 0.0 and other > 0.0 else 0.0


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float | None:
    """Expected calibration error (Naeini et al. 2015): sum over bins of their share times |accuracy - confidence|.

    Args:
        confidence: [N] the largest probability of every example; NaN where it is not known, which does not count.
        correct: [N] bool.
        bins: number of bins of equal width over [0, 1], each closed on the right.

    Returns:
        0..1; None if no confidence is known.

    Examples:
        >>> calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False]), bins=2)
        0.0
        >>> round(calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False])), 9)
        0.1
    """
    known = ~np.isnan(confidence)
    if not known.any():
        return None
    confidence, correct = confidence[known], correct[known]
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    apart = np.bincount(place, correct, bins) - np.bincount(place, confidence, bins)
    return float(np.abs(apart).sum() / len(confidence))


def figures_of_merit(results: Sequence[Mapping[str, Any]], norm: str, eps: float) -> list[dict[str, Any]]:
    """One row per network and checkpoint, each figure None where it was not measured.

    `robust_accuracy`, `w_robust` (the arithmetic) and `nrr` (the harmonic mean with the clean accuracy) are those of
    `attack`: the row with the lowest accuracy over all images at the threat model's norm and radius (that of most rows, if
    the protocol has its own), transfer and black-box attacks included. `generalisation_gap` is the training images' robust
    accuracy less the test images', both under `gap_attack`. `ece` is the expected calibration error with 15 bins on clean
    images, `ece_robust` that under `ece_attack`, the strongest row whose confidences are known. `mean_corruption_error` is
    the mean error over the `corruptions` kinds of CIFAR-C's fifteen that were measured, each over its five severities, not
    set in relation to another network's.

    Args:
        results: rows of `result_row`.
        norm: of the threat model.
        eps: its radius.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["network"], row["checkpoint"]), []).append(row)
    return [
        {"network": network, "checkpoint": checkpoint, **_figures(rows, norm, eps)}
        for (network, checkpoint), rows in groups.items()
    ]


def _figures(rows: Sequence[Mapping[str, Any]], norm: str, eps: float) -> dict[str, Any]:
    clean = next((row for row in rows if row["attack"] == "clean"), None)
    attacked = [r for r in rows if clean and r["attack"] != "clean" and (r["norm"], r["n"]) == (norm, clean["n"])]
    # Some protocols test at a radius of their own, whatever that of the training.
    radii = [row["eps"] for row in attacked]
    tested = eps if eps in radii else max(radii, key=radii.count, default=eps)
    attacked = [row for row in attacked if row["eps"] == tested]

    def strongest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        # Of equals the last: protocols begin with the weaker attacks.
        return min(reversed(rows), key=lambda row: row["accuracy"], default={})

    worst = strongest(attacked)
    calibrated = strongest([row for row in attacked if row.get("ece") is not None and not row["surrogate"]])
    trained = next((row for row in rows if row.get("generalisation_gap") is not None), {})
    errors = [1.0 - row["accuracy"] for row in rows if row["norm"] == "corruption" and row["attack"] in KINDS]
    return {
        "clean_accuracy": clean["accuracy"] if clean else None,
        "attack": worst.get("attack"),
        "robust_accuracy": worst.get("accuracy"),
        "w_robust": worst.get("w_robust"),
        "nrr": worst.get("nrr"),
        "gap_attack": trained.get("attack"),
        "generalisation_gap": trained.get("generalisation_gap"),
        "ece": clean.get("ece") if clean else None,
        "ece_attack": calibrated.get("attack"),
        "ece_robust": calibrated.get("ece"),
        "corruptions": len(errors),
        "mean_corruption_error": float(np.mean(errors)) if errors else None,
    }
