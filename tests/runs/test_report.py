"""The report on disk."""

import json

import pytest

from advjax.evaluate.report import harmonic_mean
from advjax.runs.display import Display
from advjax.runs.evaluate import write_report


def test_report_is_written_whole_and_read_back(tmp_path):
    row = {
        "network": "model",
        "checkpoint": "last",
        "protocol": "quick",
        "norm": "linf",
        "eps": 8 / 255,
        "eps_text": "8/255",
        "n": 100,
    }
    row |= {"seconds": 1.0, "seed": 0, "dtype": "float32", "device": "cpu", "surrogate": None}
    results = [{**row, "attack": "clean", "accuracy": 0.9, "w_robust": None, "nrr": None}]
    results.append({**row, "attack": "pgd20", "accuracy": 0.4, "w_robust": 0.65, "nrr": 0.5538})
    report = {
        "method": "pgd_at",
        "config_hash": "abc",
        "version": "0",
        "eps": 8 / 255,
        "norm": "linf",
        "networks": {"model": {"architecture": "resnet18", "params_sha256": "0"}},
        "results": results,
        "warnings": ["something is odd"],
    }
    write_report(tmp_path, report, Display(live=False))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    page = (tmp_path / "report.md").read_text()
    assert "| pgd20 | linf, 8/255 | 40.00 | 65.00 | 55.38 | 100 |" in page
    assert "8/255" in page
    assert "**Warning:** something is odd" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["about.json", "report.html", "report.json", "report.md"]


def test_nrr_is_the_harmonic_mean_of_clean_and_robust():
    assert harmonic_mean(0.8, 0.4) == pytest.approx(2 / (1 / 0.8 + 1 / 0.4))
    assert harmonic_mean(0.8, 0.0) == harmonic_mean(0.0, 0.0) == 0.0
