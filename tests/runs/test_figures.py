"""A finished run's report: figures of merit, an adaptive attack with the run's own loss, corruptions, a comparison."""

import json

import numpy as np
import pytest

from advjax import runs
from advjax.cli import compare, evaluate
from advjax.files import read_json
from tests.evaluate.test_corruptions import corrupted_folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """TRADES, a few steps, evaluated by the protocol `adaptive`."""
    made = runs.default("trades")
    made.data.update({"name": "digits", "augment": "none", "validation": 0, "examples": 200})
    made.network.update({"name": "tiny_cnn", "width": 4})
    made.batch_size, made.epochs = 100, 2
    made.attack.update({"eps": "0.1", "step_size": "0.05", "steps": 1})
    made.log.tensorboard = False
    made.evaluation.update({"protocol": "adaptive", "examples": 60})
    folder = tmp_path_factory.mktemp("run")
    runs.finish(made, folder)
    return folder


def test_the_runs_own_loss_is_attacked(workdir):
    rows = {row["attack"]: row for row in read_json(workdir, "report.json")["results"]}
    assert list(rows) == ["clean", "pgd20", "pgd100", "pgd100_margin", "pgd100_kl", "pgd100_own", "adaptive"]
    single = [rows[name]["accuracy"] for name in rows["adaptive"]["params"]["all_of"]]
    assert rows["adaptive"]["accuracy"] <= min(single)
    assert rows["adaptive"]["backwards"] == 60 * 400 and rows["pgd100_own"]["forwards"] == 60 * 101


def test_training_images_are_attacked_as_test_images_are(workdir):
    report = read_json(workdir, "report.json")
    row = next(row for row in report["results"] if row["attack"] == "pgd20")
    assert row["generalisation_gap"] == pytest.approx(row["train_accuracy"] - row["accuracy"])
    record = [json.loads(line) for path in workdir.glob("evaluation/*/train/*.jsonl") for line in path.open()]
    assert np.mean([entry["robust"] for entry in record[1:]]) == row["train_accuracy"] and len(record) == 61
    (figures,) = report["figures"]
    assert figures["generalisation_gap"] == row["generalisation_gap"] and figures["gap_attack"] == "pgd20"
    assert figures["attack"] == "adaptive" and figures["ece"] is not None and figures["ece_robust"] is not None
    page = (workdir / "report.md").read_text()
    assert "## Figures of merit" in page and "gap under pgd20; ECE under attack: " in page


def test_a_comparison_shows_the_figures(workdir, tmp_path, capsys):
    assert compare.main(["compare", f"--root={tmp_path}", f"--runs={workdir}"]) == 0
    page = capsys.readouterr().out
    (figures,) = read_json(workdir, "report.json")["figures"]
    assert "W-Robust | NRR | gap | ECE | ECE under attack |" in page
    shown = [f"{100 * figures[name]:.1f}" for name in ("generalisation_gap", "ece", "ece_robust")]
    assert " | ".join(shown) in page


def test_corruptions_of_a_run(workdir, tmp_path, capsys):
    flags = [f"--workdir={workdir}", "--protocol=corruptions", "--examples=60"]
    assert evaluate.main(["evaluate", *flags, f"--out={tmp_path / 'computed'}"]) == 0
    report = read_json(tmp_path / "computed", "report.json")
    kinds = [row["attack"] for row in report["results"]]
    assert kinds == ["clean", "gaussian_noise", "shot_noise", "impulse_noise", "brightness", "contrast"]
    error = np.mean([1 - row["accuracy"] for row in report["results"][1:]])
    assert report["figures"][0]["mean_corruption_error"] == pytest.approx(error)
    assert evaluate.main(["evaluate", *flags, f"--out={tmp_path / 'again'}", "--corruptions=nowhere"]) == 2
    assert "corruptions must be a folder with labels.npy" in capsys.readouterr().err
    other = corrupted_folder(tmp_path / "c")
    assert (
        evaluate.main(["evaluate", *flags[:2], "--examples=12", f"--out={tmp_path / 'no'}", f"--corruptions={other}"])
        == 2
    )
    assert "is of other images than the test set's" in capsys.readouterr().err and not (tmp_path / "no").exists()
