"""Figures are files that are images, however many curves they have and however few points."""

import struct

import numpy as np
import pytest

from advjax.runs import plots
from advjax.runs.plots import Bin


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
    ("names", "titles"),
    [
        (["loss"], ["Loss"]),
        (["robust_accuracy", "loss", "learning_rate"], ["Loss", "Learning rate", "Accuracy in the training steps"]),
        (["loss", "adv_temperature", "nat_temperature"], ["Loss", "Temperatures of the teachers"]),
        (["train_clean_accuracy", "peer1.train_clean_accuracy"], ["Accuracy of peer 0", "Accuracy of peer 1"]),
        (["a_thing", "b_thing"], ["Thing"]),
    ],
)
def test_a_course_has_a_panel_per_kind_of_quantity(names, titles):
    assert [panel.title for panel in plots.course(course(4, names), first="peer 0")] == titles


def test_many_curves_single_points_gaps_and_what_is_no_number(tmp_path):
    names = [
        f"peer{k}.{part}_{kind}_accuracy"
        for k in range(3)
        for part in ("train", "validation")
        for kind in ("clean", "robust")
    ]
    records = course(1, ["loss", *names, *(f"q{k}_weight" for k in range(14))])
    records.append({"step": 6, "epoch": 2, "seconds": 2.0, "loss": float("nan"), "late_entropy": 1.0})
    panels = plots.course(records, best=1)
    assert max(len(panel.legend) for panel in panels) <= plots.MOST_CURVES
    # No two curves of a figure look the same.
    for panel in panels:
        assert len({(key.colour, key.line, key.marker) for key in panel.legend}) == len(panel.legend)
    plots.training(records, tmp_path / "figure.png", "a title")
    width, _ = size(tmp_path / "figure.png")
    assert width == int(150 * 3 * plots.COLUMN)


def test_a_comparison_has_a_panel_per_attack_and_marks_that_differ(tmp_path):
    content = {
        "methods": {
            f"method {i}": {"accuracy": {"clean": [0.9, 0.8], "pgd20": [0.5, 0.4], "apgd_ce": [0.4, 0.3][: 1 + i % 2]}}
            for i in range(12)
        }
    }
    plots.compare(content, tmp_path / "figure.png")
    assert size(tmp_path / "figure.png")[0] == int(150 * 2 * plots.COLUMN)
    assert len({plots.key_of(i, "")[1:] for i in range(64)}) == 64
    for method in content["methods"].values():
        del method["accuracy"]["pgd20"], method["accuracy"]["apgd_ce"]
    assert [panel.title for panel in plots.scatters(content)] == ["Clean"]


def test_files_are_as_wide_as_a_column_and_the_same_again(tmp_path):
    panel = plots.reliability({"on clean images": [Bin(0.5, 0.4, 0.2), Bin(0.9, 0.8, 0.8)]})
    plots.save(panel, tmp_path)
    assert size(tmp_path / "calibration.png")[0] <= 300 * (plots.COLUMN + 0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"calibration.png", "calibration.pdf", "calibration.svg"}
    first = (tmp_path / "calibration.svg").read_bytes()
    plots.save(panel, tmp_path, ["svg"])
    assert (tmp_path / "calibration.svg").read_bytes() == first


def test_a_figure_in_a_page_has_the_colours_of_the_page_and_names_of_its_own():
    svg = plots.inline(plots.per_class(["<b>", "$x"], np.array([0.9, 0.8]), np.array([0.5, 0.4]), "PGD-20"))
    assert svg.startswith("<svg") and "var(--c0)" in svg and "var(--ink)" in svg and "http" not in svg
    assert not any(colour in svg for colour in (*plots.COLOURS, plots.INK, plots.MUTED, plots.GRID))
    assert "&lt;b&gt;" in svg and "<b>" not in svg and "$x" in svg
    assert 'id="per-class-' in svg and 'id="figure' not in svg
