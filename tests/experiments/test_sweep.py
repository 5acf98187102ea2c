"""The sweep's command line: what its members are, its exit status and tables, and bad input."""

import json

import pytest

from advjax.cli import sweep as command
from advjax.runs import schema, sweep
from tests.runs.test_tables import report


def members(root, configs, seeds=(0,), **settings):
    return {member.name: member for member in command.make_members(configs, seeds, root, **settings)}


def test_members_are_configs_by_overrides_for_one_seed_after_the_other(tmp_path):
    made = members(tmp_path, ["trades", "pgd_at"], (1, 0), settings=["epochs=2"], vary=["attack.eps=8/255,0.1"])
    assert list(made)[:2] == ["trades-attack.eps=8-255-1", "trades-attack.eps=0.1-1"] and len(made) == 8
    member = made["trades-attack.eps=8-255-1"]
    assert (member.label, member.config.seed, member.config.epochs) == ("trades attack.eps=8/255", 1, 2)
    assert member.config.attack.eps == "8/255" and member.config.evaluation.protocol == "fast"
    tuples = members(tmp_path, ["trades"], vary=["schedule.milestones=(0.5,0.6),(0.7,0.8)"])
    assert [m.config.schedule.milestones for m in tuples.values()] == [(0.5, 0.6), (0.7, 0.8)]


def test_teachers_come_from_the_sweep_where_seed_variant_and_overrides_agree(tmp_path):
    made = members(tmp_path, ["bmtard", "trades"], (0, 1), vary=["epochs=2,3"])
    teachers = made["bmtard-epochs=3-1"].config.teachers
    assert (teachers["clean"].path, teachers["robust"].path) == ("", str(tmp_path / "trades-epochs=3-1"))
    elsewhere = members(tmp_path, ["bmtard", "trades:cifar10"])
    assert elsewhere["bmtard-0"].config.teachers["robust"].path == ""
    assert "trades-cifar10-0" in elsewhere


def test_all_is_every_packaged_config_with_the_teachers_first():
    names = command.names_of("all")
    assert names[:2] == ["natural", "trades"] and {"trades_awp", "mat_union"} < set(names)
    assert "quickstart" not in names and len(set(names)) == len(names)


def test_tables_of_what_is_finished_and_status_1_after_a_failure(tmp_path, monkeypatch, capsys):
    def finish(config, folder, display):
        if folder.name == "sglr-0":
            raise RuntimeError("no more")
        folder.mkdir(parents=True)
        made = report(0.5 + 0.1 * config.seed, 0.3) | {"norm": config.attack.norm}
        made["config_hash"] = schema.config_hash(schema.plain(config))
        (folder / "report.json").write_text(json.dumps(made))
        (folder / "config.json").write_text(json.dumps({"seed": config.seed}))

    monkeypatch.setattr(sweep, "finish", finish)
    root, page = tmp_path / "root", tmp_path / "page.md"
    page.write_text("<!-- here -->\n<!-- end of here -->\n")
    flags = ["sweep", "--configs=sglr,trades,p_1,pgd_at", f"--root={root}", "--seeds=0,1", f"--fill={page}:here"]
    assert command.main(flags) == 1
    out = capsys.readouterr().out
    assert "7 of 8 members are finished" in out and "failed: sglr-0: RuntimeError: no more" in out
    assert "| trades | 2 | 55.0 +- 7.1 |" in page.read_text() and "| p_1 | 2 |" in page.read_text()
    assert "| p_1 |" not in (root / "sweep.md").read_text() and "| p_1 |" in (root / "sweep-2.md").read_text()
    content = json.loads((root / "sweep.json").read_text())
    assert content["reference"] == "pgd_at" and content["methods"]["sglr"]["seeds"] == [1]
    assert {path.suffix for path in root.glob("sweep.*")} == {".md", ".tex", ".csv", ".json", ".png", ".html"}
    assert command.main([*flags, "--status"]) == 0
    assert "sglr-0                   failed: RuntimeError: no more" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--configs=tardes"], "did you mean trades"),
        (["--configs=trades:digit"], "unknown variant"),
        (["--seeds=one"], "--seeds must be whole numbers"),
        (["--shard=4/4"], "--shard must be I/N with I from 0 to N - 1"),
        (["--vary=method.beta"], "--vary must be FIELD=VALUE,VALUE"),
        (["--set=method.beta=-1"], "method.beta"),
        (["--vary=epochs=2,2"], "2 members of the sweep have the folder trades-epochs=2-0"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(tmp_path, capsys, flags, expected):
    assert command.main(["sweep", "--configs=trades", f"--root={tmp_path / 'new'}", *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()
