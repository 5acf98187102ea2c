"""A sweep's order of work, without any training: what is skipped, put off, and named when it fails."""

import json

import pytest

from advjax import runs
from advjax.errors import InUse, Stopped
from advjax.runs import schema, sweep
from advjax.runs.display import Display
from advjax.runs.sweep import Member


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Three members, the first taught by the last, and a `finish` that does as it is told and writes a report."""
    taught = runs.default("ard")
    taught.teachers.robust = {"path": str(tmp_path / "trades-0"), "network": {"name": "tiny_cnn"}}
    configs = {"ard-0": taught, "natural-0": runs.default("natural"), "trades-0": runs.default("trades")}
    members = [Member(name, name[:-2], 0, runs.read(config)) for name, config in configs.items()]
    done, troubles = [], {}

    def finish(config, folder, display):
        if troubles.get(folder.name):
            raise troubles[folder.name].pop()
        folder.mkdir(exist_ok=True)
        done.append(folder.name)
        hash = schema.config_hash(schema.plain(config))
        (folder / "report.json").write_text(json.dumps({"config_hash": hash}))

    monkeypatch.setattr(sweep, "finish", finish)
    monkeypatch.setattr(sweep, "WAIT_SECONDS", 0.0)

    def work(shard=(0, 1)):
        done.clear()
        return sweep.finish_all(members, tmp_path, Display(live=False), shard), list(done)

    return members, tmp_path, troubles, work


def test_teachers_come_first_and_nothing_is_done_twice(world):
    _, _, _, work = world
    assert work() == ({}, ["trades-0", "ard-0", "natural-0"])
    assert work() == ({}, [])


def test_shards_share_the_work_and_their_teachers(world):
    _, _, _, work = world
    assert work((1, 2)) == ({}, ["natural-0"])
    assert work((0, 2)) == ({}, ["trades-0", "ard-0"])


def test_a_failure_is_named_with_those_it_takes_along_and_tried_again(world):
    members, root, troubles, work = world
    troubles["trades-0"] = [RuntimeError("no\nmore")]
    failed, done = work()
    assert failed == {"trades-0": "RuntimeError: no more", "ard-0": "its teacher trades-0 failed"}
    assert done == ["natural-0"]
    assert "Traceback" in (root / "trades-0" / sweep.FAILED).read_text()
    assert [sweep.status(member, root) for member in members] == ["missing", "done", "failed: more"]
    assert work() == ({}, ["trades-0", "ard-0"])
    assert not (root / "trades-0" / sweep.FAILED).exists()
    assert {sweep.status(member, root) for member in members} == {"done"}


def test_what_another_process_is_at_is_put_off_and_a_signal_ends_the_sweep(world):
    _, _, troubles, work = world
    troubles["trades-0"] = [InUse("in use"), InUse("in use")]
    assert work() == ({}, ["natural-0", "trades-0", "ard-0"])
    for folder in ("natural-0", "trades-0"):
        (world[1] / folder / "report.json").unlink()
    troubles["natural-0"] = [Stopped(15, "saved")]
    with pytest.raises(Stopped):
        work()
