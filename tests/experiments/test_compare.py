"""The comparison of methods: its table by hand, and a small one from the command line to its end."""

import argparse
import json

import pytest

from advjax.cli import compare
from advjax.cli.compare import config_of, markdown, summarise


def report(method, clean, robust, warnings=()):
    """A report whose best checkpoint and second network must not be looked at."""
    rows = []
    for network, checkpoint, shift in (("a", "best", 0.3), ("a", "last", 0.0), ("b", "last", 0.2)):
        for attack, accuracy in (("clean", clean), ("pgd20", robust)):
            row = {"network": network, "checkpoint": checkpoint, "attack": attack, "accuracy": accuracy + shift}
            rows.append({**row, "norm": "linf", "eps_text": "8/255", "n": 100})
    return {"method": method, "networks": {"a": {}, "b": {}}, "results": rows, "warnings": list(warnings)}


REPORTS = {
    "pgd_at": [report("pgd_at", 0.50, 0.30), report("pgd_at", 0.54, 0.34)],
    "trades": [report("trades", 0.40, 0.33), report("trades", 0.42, 0.35)],
    "natural": [report("natural", 0.60, 0.00, ["odd"]), report("natural", 0.60, 0.02)],
}


def test_the_table_has_mean_and_range_and_says_what_the_seeds_do_not_tell_apart():
    page = markdown(summarise(REPORTS))
    assert "linf 8/255, 100 test images, last checkpoint, 2 seed(s)" in page
    assert "| pgd_at | 52.0 [50.0, 54.0] | 32.0 [30.0, 34.0] |" in page
    assert "| natural | 60.0 [60.0, 60.0] | 1.0 [0.0, 2.0] |" in page
    assert "- trades: pgd20\n" in page  # 33-35 overlaps with 30-34, 40-42 does not with 50-54
    assert "- natural" not in page
    assert "**Warning:** natural: odd" in page


def test_one_seed_has_no_range_and_no_verdict():
    page = markdown(summarise({name: reports[:1] for name, reports in REPORTS.items()}))
    assert "| trades | 40.0 | 33.0 |" in page
    assert "overlap" not in page


def test_teachers_come_from_the_comparison(tmp_path):
    options = argparse.Namespace(variant="digits", protocol="fast", set=["epochs=2"])
    methods = ["natural", "trades", "bmtard"]
    config = config_of("bmtard", 1, methods, tmp_path, options)
    assert config.teachers["clean"].path == str(tmp_path / "natural-1")
    assert config.teachers["robust"].path == str(tmp_path / "trades-1")
    assert (config.seed, config.epochs, config.evaluation.protocol) == (1, 2, "fast")
    assert config_of("bmtard", 1, ["bmtard"], tmp_path, options).teachers["clean"].path == ""


def test_a_comparison_to_its_end_and_nothing_is_done_twice(tmp_path, capsys):
    settings = ("epochs=1", "data.validation=0", "validation.steps=1", "evaluation.examples=20")
    flags = [f"--root={tmp_path}", "--methods=natural", "--protocol=quick", "--set=batch_size=480"]
    flags += [f"--set={setting}" for setting in settings]
    assert compare.main(["compare", *flags]) == 0
    content = json.loads((tmp_path / "compare.json").read_text())
    accuracy = content["methods"]["natural"]["accuracy"]
    assert {attack: len(values) for attack, values in accuracy.items()} == {"clean": 1, "pgd20": 1, "apgd_ce": 1}
    assert (tmp_path / "compare.png").stat().st_size > 1000
    before = (tmp_path / "natural-0" / "report.json").stat().st_mtime_ns
    capsys.readouterr()
    assert compare.main(["compare", *flags]) == 0
    assert (tmp_path / "natural-0" / "report.json").stat().st_mtime_ns == before
    assert (tmp_path / "compare.md").read_text() in capsys.readouterr().out
    assert compare.main(["compare", f"--root={tmp_path}", f"--runs={tmp_path / 'natural-0'}"]) == 0
    assert f"| {tmp_path / 'natural-0'} |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--seeds=one"], "--seeds must be whole numbers"),
        (["--methods=bmtard,natural,trades"], "natural must come before bmtard"),
        (["--methods=tardes"], "did you mean"),
        (["--set=epohcs=1"], "did you mean epochs"),
        (["--runs=no/such/run"], "no/such/run is not the folder of a run"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, flags, expected):
    assert compare.main(["compare", f"--root={tmp_path / 'new'}", *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(norm="l2"), "norm is linf in the one and l2"),
        (lambda report: report.update(eps=0.1), "eps is 0.2 in the one and 0.1"),
        (lambda report: report["data"].update(test_sha256="other"), "the test set is same"),
        (lambda report: report["results"].pop(), "the set of attacks is clean, pgd20 in the one and clean"),
        (lambda report: report["results"][-1].update(n=50), "n of pgd20 is 100 in the one and 50"),
        (lambda report: report["results"][-1].update(params={"steps": 10}), "params of pgd20 is"),
    ],
)
def test_what_is_not_comparable_is_refused(tmp_path, capsys, change, message):
    for name, edit in (("one", lambda report: None), ("other", change)):
        content = {**report(name, 0.5, 0.3), "norm": "linf", "eps": 0.2, "data": {"test_sha256": "same"}}
        content["results"] = [row for row in content["results"] if (row["network"], row["checkpoint"]) == ("a", "last")]
        edit(content)
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    runs = f"--runs={tmp_path / 'one'},{tmp_path / 'other'}"
    assert compare.main(["compare", f"--root={tmp_path / 'root'}", runs]) == 2
    error = capsys.readouterr().err
    assert "cannot stand in one table" in error and message in error
    assert not (tmp_path / "root").exists()
