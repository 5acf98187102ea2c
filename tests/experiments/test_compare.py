"""The comparison of methods: a small one from the command line to its end."""

import json

import pytest

from advjax.cli import compare


def test_a_comparison_to_its_end_and_nothing_is_done_twice(tmp_path, capsys):
    settings = ("epochs=1", "data.validation=0", "validation.steps=1", "evaluation.examples=20")
    flags = [f"--root={tmp_path}", "--methods=natural", "--protocol=quick", "--set=batch_size=480"]
    flags += [f"--set={setting}" for setting in settings[:2]] + [f"--config.{setting}" for setting in settings[2:]]
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
    assert f"| {tmp_path / 'natural'} | 1 |" in capsys.readouterr().out
    assert compare.main(["compare", f"--root={tmp_path}", f"--runs={tmp_path}/*"]) == 0
    assert f"| {tmp_path / 'natural'} | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--seeds=one"], "--seeds must be whole numbers"),
        (["--methods=tardes"], "did you mean"),
        (["--set=epohcs=1"], "did you mean epochs"),
        (["--config.epohcs=1"], "did you mean epochs"),
        (["--runs=no/such/run"], "no/such/run is not the folder of a run"),
        (["--runs=no/such/*"], "there is no finished run at no/such/*"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, flags, expected):
    assert compare.main(["compare", f"--root={tmp_path / 'new'}", *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()
