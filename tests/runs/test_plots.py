"""Figures are files that are images, however many curves they have and however few points."""

import struct

import pytest

from advjax.runs import plots


def size(path):
    """Width and height of a PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000
    return struct.unpack(">II", data[16:24])


def course(epochs, names):
    return [
        {"step": 3 * e, "epoch": e, "seconds": 1.0 * e, **{n: 0.1 * e for n in names}} for e in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(
    ("names", "panels"),
    [(["loss"], 1), (["loss", "clean_accuracy", "learning_rate"], 3), (["loss", "a_weight", "b_weight", "tau"], 3)],
)
def test_a_course_has_a_panel_per_kind_of_quantity(tmp_path, names, panels):
    plots.training(course(4, names), tmp_path / "figure.png", "a title")
    width, height = size(tmp_path / "figure.png")
    assert (width, height) == (round(150 * 5.2 * panels), round(150 * 3.6))


def test_many_curves_single_points_and_gaps(tmp_path):
    names = [
        f"{peer}.{part}_{kind}" for peer in range(8) for part in ("train", "validation") for kind in ("accuracy", "w")
    ]
    records = course(1, ["loss", *names])
    records.append({"step": 6, "epoch": 2, "seconds": 2.0, "loss": 0.5, "late_entropy": 1.0})
    plots.training(records, tmp_path / "figure.png")
    assert size(tmp_path / "figure.png") == (round(150 * 5.2 * 3), round(150 * 3.6 * 2))


def test_a_comparison_has_a_panel_per_attack(tmp_path):
    content = {
        "methods": {
            f"method {i}": {"accuracy": {"clean": [0.9, 0.8], "pgd20": [0.5, 0.4], "apgd_ce": [0.4, 0.3][: 1 + i % 2]}}
            for i in range(12)
        }
    }
    plots.compare(content, tmp_path / "figure.png")
    assert size(tmp_path / "figure.png") == (round(150 * 5.2 * 2), round(150 * 3.6))
    for method in content["methods"].values():
        del method["accuracy"]["pgd20"], method["accuracy"]["apgd_ce"]
    plots.compare(content, tmp_path / "clean.png")
    assert size(tmp_path / "clean.png") == (round(150 * 5.2), round(150 * 3.6))
