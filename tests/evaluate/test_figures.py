"""Figures of merit by hand."""

import numpy as np
import pytest

from advjax import evaluate
from advjax.evaluate import Outcome
from advjax.evaluate.figures import calibration_error, figures_of_merit
from tests.evaluate.test_evaluate import ATTACK, network, split  # noqa: F401


def test_calibration_error_by_bins():
    """Two bins of fifteen: (0.5333, 0.6] with accuracy 1/2 and (0.9333, 1] with accuracy 1."""
    confidence, correct = np.array([0.6, 0.58, 0.95, 0.99, np.nan]), np.array([True, False, True, True, False])
    expected = 0.5 * abs(0.5 - 0.59) + 0.5 * abs(1 - 0.97)
    assert calibration_error(confidence, correct) == pytest.approx(expected)
    # A bin is closed on the right: 0.6 = 9/15 and 0.58 share one; 0 and 1 have a place.
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0.0
    assert calibration_error(np.array([1.0]), np.array([False])) == 1.0
    assert calibration_error(np.array([np.nan]), np.array([True])) is None


def row(attack, accuracy, norm="linf", eps=0.1, n=100, **more):
    made = {"network": "model", "checkpoint": "last", "attack": attack, "norm": norm, "eps": eps, "n": n}
    return {**made, "accuracy": accuracy, "w_robust": 0.0, "nrr": 0.0, "surrogate": None, "ece": None, **more}


def test_figures_are_of_the_strongest_row_at_the_radius_of_the_training():
    rows = [
        row("clean", 0.9, ece=0.02),
        row("pgd20", 0.5, ece=0.2, generalisation_gap=0.3, train_accuracy=0.8),
        row("pgd100", 0.48, ece=0.25),
        row("transfer", 0.49, ece=0.9, surrogate="teacher"),
        row("autoattack", 0.4, w_robust=0.65, nrr=0.55),
        row("autoattack_0.2", 0.1, eps=0.2),
        row("first", 0.0, n=10),
        row("pgd_l2", 0.2, norm="l2"),
        *(
            row(kind, 1 - error, norm="corruption", eps=0)
            for kind, error in (("fog", 0.2), ("frost", 0.4), ("spatter", 1))
        ),
    ]
    (figures,) = figures_of_merit(rows, "linf", 0.1)
    assert figures == {
        "network": "model", "checkpoint": "last", "clean_accuracy": 0.9, "attack": "autoattack", "robust_accuracy": 0.4,
        "w_robust": 0.65, "nrr": 0.55, "gap_attack": "pgd20", "generalisation_gap": 0.3, "ece": 0.02, "ece_attack": "pgd100",
        "ece_robust": 0.25, "corruptions": 2, "mean_corruption_error": pytest.approx(0.3),
    }  # fmt: skip
    # A protocol at a radius of its own: that of most of its rows.
    elsewhere = [row("clean", 0.9), row("a", 0.5, eps=0.3), row("b", 0.4, eps=0.3), row("c", 0.1, eps=0.2)]
    assert figures_of_merit(elsewhere, "linf", 0.1)[0]["attack"] == "b"
    (nothing,) = figures_of_merit([row("clean", 0.9)], "linf", 0.1)
    assert nothing["attack"] is nothing["robust_accuracy"] is nothing["mean_corruption_error"] is None


def test_confidences_are_those_of_the_images_as_they_are_scored(split, tmp_path):  # noqa: F811
    """Of the adversarial images in an attack's row, and the same from its record."""
    path = tmp_path / "record.jsonl"
    clean = evaluate.attack_dataset(network, evaluate.clean(), split)
    logits = np.asarray(network(split.image / np.float32(255)), np.float64)
    largest = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).max(-1)
    np.testing.assert_allclose(clean.confidence, largest, atol=1e-6)
    attacked = evaluate.attack_dataset(network, ATTACK, split, record_path=path)
    assert np.abs(attacked.confidence - clean.confidence).max() > 0.01
    np.testing.assert_array_equal(
        evaluate.attack_dataset(network, ATTACK, split, record_path=path).confidence, attacked.confidence
    )
    where = {"network": "n", "checkpoint": "last", "protocol": "p", "seed": 0, "dtype": "float32", "device": "cpu"}
    made = evaluate.result_row(ATTACK, attacked, 1.0, **where)
    assert made["ece"] == calibration_error(attacked.confidence, attacked.robust) > 0
    assert evaluate.result_row(ATTACK, Outcome(*attacked[:4]), 1.0, **where)["ece"] is None
