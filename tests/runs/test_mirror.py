"""Runs at an address: copied whole, gone on from on another machine, by one process at a time."""

import json
import pathlib
import shutil
import signal
import sys
import time

import fsspec
import pytest

from advjax import hosts, load_run, remote, runs
from advjax.cli import export
from advjax.errors import InputError, InUse, Stopped
from advjax.evaluate import params_sha256
from advjax.runs import mirror
from advjax.runs.display import Display, Silent
from advjax.runs.interrupts import Interrupts
from advjax.runs.mirror import Mirror
from advjax.runs.workdir import check_place
from tests.runs.test_faults import comparable, config

STORE = fsspec.filesystem("memory")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(NAME)`: this process is now on that machine, with a cache folder of its own."""

    def move(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name

    monkeypatch.setattr(mirror, "LOOK", 0.02)
    monkeypatch.setattr(mirror, "BEAT", 0.1)
    move("first")
    yield move
    STORE.store.clear()
    STORE.pseudo_dirs[:] = [""]


def there(root="/bucket/run"):
    """Name -> content of what the address holds; `checkpoints.json` as JSON."""
    found = {name.removeprefix(f"{root}/"): STORE.cat(name) for name in STORE.find(root)}
    return {name: json.loads(content) if name == "checkpoints.json" else content for name, content in found.items()}


def here(folder):
    """What is to be there."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((".lock", ".mirror"))
    }
    index = json.loads(files["checkpoints.json"])
    whole = {path.name for path in (folder / "checkpoints").iterdir()}
    return {**files, "checkpoints.json": {step: entry for step, entry in index.items() if step in whole}}


def params(workdir):
    return params_sha256(load_run(workdir, checkpoint="last")[1])


class Stopping(Display):
    """Sends SIGTERM when it is first told of progress, which is after three steps."""

    def update(self, *_, **__):
        signal.raise_signal(signal.SIGTERM)


def test_a_run_stopped_on_one_machine_is_finished_on_another(machine, tmp_path, capsys):
    address, made = "memory://bucket/run", config()
    with pytest.raises(Stopped, match="after step 3"):
        runs.finish(made, address, Stopping(live=False))
    left = there()
    assert left["checkpoints.json"].keys() == {"3"} and "report.json" not in left
    machine("second")
    report = runs.finish(made, address)
    whole = runs.finish(made, tmp_path / "whole")
    folder = Mirror(address).folder
    assert report["networks"] == whole["networks"] and comparable(folder) == comparable(tmp_path / "whole")
    now = there()
    assert not json.loads(now.pop(".mirror.json"))["open"] and now == here(folder)
    assert {name.split("/")[1] for name in now if name.startswith("checkpoints/")} == {"8", "12"}
    third = machine("third")
    capsys.readouterr()
    assert runs.finish(made, address) == report
    assert f"finished already: {address}/report.md" in capsys.readouterr().out and not third.exists()
    # Its network is a teacher, or whatever else reads a run.
    assert params(address) == params(tmp_path / "whole")
    assert export.main(["", f"--workdir={address}", "--format=orbax", f"--out={tmp_path / 'exported'}"]) == 0


class Worker:
    """A folder with checkpoints as a run makes them, of a few bytes each."""

    def __init__(self, address="memory://bucket/run"):
        self.mirror = Mirror(address)
        self.folder = self.mirror.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.index = {}

    def begin(self):
        self.mirror._begin(Silent())
        return self

    def save(self, step, content, keep=2):
        self.index[str(step)] = {"sha256": content}
        (self.folder / "checkpoints.json").write_text(json.dumps(self.index))
        shutil.rmtree(self.folder / "checkpoints" / str(step), ignore_errors=True)
        place = self.folder / "checkpoints" / str(step)
        for name in ("a", f"of {content}", "z"):
            (place / "default").mkdir(parents=True, exist_ok=True)
            (place / "default" / name).write_text(content)
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(f"{step}\n")
        for old in sorted((self.folder / "checkpoints").iterdir(), key=lambda p: int(p.name))[:-keep]:
            shutil.rmtree(old)

    def found(self):
        """Step -> content of the checkpoints that are in the folder and named, each whole and what its entry says."""
        index = json.loads((self.folder / "checkpoints.json").read_text())
        steps = {}
        for step, entry in index.items():
            files = sorted((self.folder / "checkpoints" / step / "default").iterdir())
            texts = {file.read_text() for file in files}
            assert texts == {entry["sha256"]} and len(files) == 3, (step, files, texts)
            steps[int(step)] = entry["sha256"]
        assert steps.keys() == {int(path.name) for path in (self.folder / "checkpoints").iterdir()}
        return steps


class Cut(Exception):
    """The process ends here."""


def test_wherever_copying_ends_what_is_there_can_be_gone_on_from(machine, monkeypatch):
    calls, most = [], [10**6]

    def counted(name, function):
        def call(*arguments, **options):
            calls.append(name)
            if len(calls) > most[0]:
                raise Cut
            return function(*arguments, **options)

        return call

    for name in ("pipe_file", "put_file", "rm_file"):
        monkeypatch.setattr(type(STORE), name, counted(name, getattr(type(STORE), name)))
    monkeypatch.setattr(remote.Store, "_failed", lambda self, error: error)
    seen = set()
    for end in range(1, 100):
        machine(f"first-{end}")
        STORE.store.clear()
        calls.clear()
        most[0] = 10**6
        worker = Worker().begin()
        worker.save(4, "four")
        worker.mirror.copy()
        most[0] = len(calls) + end
        worker.save(8, "eight")
        worker.save(12, "twelve")
        done = False
        try:
            worker.mirror.copy()
            done = True
        except Cut:
            pass
        most[0] = 10**6
        machine(f"second-{end}")
        other = Worker().begin()
        found = other.found()
        assert found in ({4: "four"}, {8: "eight", 12: "twelve"})
        assert (other.folder / "metrics.jsonl").read_text().splitlines()[0] == "4"
        seen.add(tuple(found))
        other.mirror.copy()  # parts of what is not named are removed
        assert {**there(), ".mirror.json": b""} == {**here(other.folder), ".mirror.json": b""}
        if done:
            break
    assert end > 10 and seen == {(4,), (8, 12)}


def test_an_entry_goes_with_its_files(machine):
    worker = Worker().begin()
    worker.save(4, "unvalidated")
    worker.mirror.copy()
    place, text = worker.folder / "checkpoints.json", json.dumps({"4": {"sha256": "new"}, "8": {"sha256": "to come"}})
    place.write_text(text)
    worker.mirror.copy()
    assert there()["checkpoints.json"] == {"4": {"sha256": "unvalidated"}}
    worker.save(4, "new")
    worker.mirror.copy()
    machine("second")
    assert Worker().begin().found() == {4: "new"}


def test_what_could_not_be_copied_is_said_and_not_lost(machine, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ValueError("no route")

    worker = Worker()
    with pytest.raises(OSError, match=r"ValueError: no route; all is in .*/first/") as failed:  # noqa: SIM117
        with worker.mirror.working(Display(live=False), Interrupts()):
            monkeypatch.setattr(type(STORE), "pipe_file", unreachable)
            worker.save(4, "four")
            time.sleep(0.2)
    assert failed.value.filename == "memory://bucket/run" and "checkpoints.json" not in there()
    assert capsys.readouterr().out.count("it is tried again, the run goes on") == 1
    monkeypatch.undo()
    machine("first")
    again = Worker()
    with again.mirror.working(Silent(), Interrupts()):  # at once, since the process that said it is at work was here
        assert again.found() == {4: "four"}
    assert there().keys() - {".mirror.json"} == here(worker.folder).keys()


def test_one_process_at_a_time_and_the_next_goes_on_from_what_a_dead_one_left(machine, capsys):
    first, interrupts = Worker(), Interrupts()
    with (
        pytest.raises(
            InUse, match=r"process \d+ on .* went on in this process's place; what this one did since is in "
        ),
        first.mirror.working(Silent(), interrupts),
    ):
        first.save(4, "four")
        while "checkpoints.json" not in there():
            time.sleep(0.01)
        machine("second")
        second = Worker()
        with pytest.raises(InUse, match=r"memory://bucket/run is in use by process \d+ on"):
            second.mirror._begin(Silent())
        first.mirror._say = lambda _: time.sleep(5 * mirror.BEAT)  # it hangs
        second.mirror._begin(Display(live=False))
        assert second.found() == {4: "four"} and "did not say that it ended" in capsys.readouterr().out
        second.index = dict(first.index)
        second.save(8, "eight")
        second.mirror.copy()
        while interrupts.signal is None:
            time.sleep(0.01)
        first.save(6, "six")
    machine("third")
    second.mirror._say(False)
    assert Worker().begin().found() == {4: "four", 8: "eight"}


def test_what_an_address_must_be(machine, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"workdir: gs://bucket/run needs gcsfs \(pip install gcsfs\)"):
        runs.finish(config(), "gs://bucket/run")
    with pytest.raises(InputError, match=r"workdir: foo://bucket/run: .*allowed: a path, gs://"):
        runs.finish(config(), pathlib.Path("foo://bucket/run"))
    made = config()
    made.init_from = "memory://bucket/nothing"
    with pytest.raises(InputError, match="init_from: there is nothing at memory://bucket/nothing"):
        runs.finish(made, tmp_path / "run")
    monkeypatch.setattr(hosts, "count", lambda: 2)
    with pytest.raises(InputError, match="workdir must be a folder that all 2 processes see; mount the bucket"):
        runs.finish(config(), "memory://bucket/run")
    with pytest.raises(InputError, match="--root must be a folder"):
        check_place("s3://bucket/runs", "--root")
