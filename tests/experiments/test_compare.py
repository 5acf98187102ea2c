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


def test_a_run_counts_once_and_seeds_of_one_row_are_of_one_training(tmp_path, capsys):
    def run(name, seed, **config):
        row = {"network": "a", "checkpoint": "last", "norm": "linf", "eps": 0.1, "eps_text": "0.1", "n": 10}
        rows = [{**row, "attack": attack, "accuracy": 0.5} for attack in ("clean", "transfer")]
        rows[1]["surrogate"] = config.pop("surrogate", "s")
        report = {"norm": "linf", "eps": 0.1, "networks": {"a": {}}, "results": rows, "warnings": []}
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
        (tmp_path / name / "config.json").write_text(json.dumps({"seed": seed, "epochs": 1, **config}))
        return str(tmp_path / name)

    a0, a1, b0, b1 = run("a-0", 0), run("a-1", 1, epochs=2), run("b-0", 0), run("b-1", 1, surrogate="t")
    (tmp_path / "same").symlink_to(a0)
    for runs, said in (
        ((a0, a0), "each counts once"),
        ((a0, f"{a0}/"), "each counts once"),
        ((a0, str(tmp_path / "same")), "each counts once"),
        ((a0, a1), "differ in more than their seed (epochs: 1 -> 2)"),
        ((b0, b1), "surrogate of transfer is s in the one and t in the other"),
        ((a0, ""), "--runs must be folders separated by commas"),
    ):
        assert compare.main(["compare", f"--root={tmp_path / 'new'}", f"--runs={','.join(runs)}"]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1
        assert not (tmp_path / "new").exists()
