"""Faults: signals, two processes in one folder, damaged checkpoints, other data, divergence. Nothing is lost."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from advjax import cli, load_run, models, parallel, runs
from advjax.cli import evaluate as cli_evaluate
from advjax.errors import InputError, Stopped
from advjax.evaluate import params_sha256
from advjax.runs import build
from advjax.runs.display import Display
from advjax.runs.experiment import Teacher
from advjax.runs.finish import prepare_teachers
from advjax.runs.interrupts import Interrupts, alone, listening
from advjax.runs.metrics import read_metrics
from advjax.runs.train import train
from advjax.runs.workdir import load_whole, prepare
from advjax.training import Checkpoints
from advjax.training.checkpoints import Damaged, best_of

EPOCHS, STEPS = 3, 4


def config(**fields):
    """Natural training of a tiny network on digits, a few steps an epoch."""
    made = runs.default("natural")
    made.data.update({"name": "digits", "augment": "none", "validation": 200, "examples": 400})
    made.network.update({"name": "tiny_cnn", "width": 4})
    made.batch_size, made.epochs, made.attack.eps = 100, EPOCHS, "0.2"
    made.validation.update({"every": EPOCHS, "steps": 1})
    made.log.tensorboard = False
    made.evaluation.update({"protocol": "clean", "examples": 40})
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class Watcher(Interrupts):
    """Interrupts that come by themselves once so many steps were looked at."""

    def __init__(self, after):
        super().__init__()
        self.after, self.seen = after, 0

    @property
    def signal(self):
        self.seen += 1
        return signal.SIGTERM if self.seen > self.after else None

    @signal.setter
    def signal(self, value):
        pass


def trained(workdir, made=None, interrupts=None):
    """Trains in a folder, or goes on; the hash of the last parameters."""
    experiment = build(made or config())
    prepare(workdir, experiment)
    train(experiment, workdir, Display(live=False), interrupts)
    return params_sha256(load_run(workdir, checkpoint="last")[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, and the hash of its parameters."""
    workdir = tmp_path_factory.mktemp("faults") / "whole"
    return workdir, trained(workdir)


def comparable(workdir):
    timing = ("seconds", "images_per_second")
    return [{k: v for k, v in r.items() if k not in timing} for r in read_metrics(workdir / "metrics.jsonl")]


def test_stopped_within_an_epoch_it_ends_in_the_same_parameters_and_metrics(whole, tmp_path):
    with pytest.raises(Stopped, match=r"stopped by .* after step 3, which is saved") as stopped:
        trained(tmp_path, interrupts=Watcher(2))  # looked at once a step
    assert stopped.value.signal == signal.SIGTERM
    with pytest.raises(Stopped, match="after step 6"):
        trained(tmp_path, interrupts=Watcher(2))
    now = time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 1e8)  # the clock was set back by three years
        # Six steps to the end of the third epoch, which ends with a validation.
        with pytest.raises(Stopped, match="during the validation"):
            trained(tmp_path, interrupts=Watcher(6))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[0] == "12"
    assert trained(tmp_path) == whole[1]
    assert comparable(tmp_path) == comparable(whole[0])


def test_what_is_no_checkpoint_is_left_alone_with_a_line(whole, tmp_path, capsys):
    with pytest.raises(Stopped):
        trained(tmp_path, interrupts=Watcher(2))
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "old").mkdir()
    assert trained(tmp_path) == whole[1]
    assert "since they are no checkpoints: notes.txt, old\n" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "notes.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(whole, tmp_path, capsys):
    trained(tmp_path)
    files = [path for path in (tmp_path / "checkpoints" / "12").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    damage(largest)
    with pytest.raises(Damaged, match=r"checkpoint 12 in .* (is damaged|cannot be read)"):
        load_run(tmp_path, checkpoint="last")
    (tmp_path / "damaged-checkpoint-12").mkdir()
    (tmp_path / "damaged-checkpoint-12" / "of_an_earlier_time").touch()
    capsys.readouterr()
    assert trained(tmp_path) == whole[1]
    said = capsys.readouterr().out
    assert "checkpoint 12" in said and "the one before it, 8, is used" in said
    assert (tmp_path / "damaged-checkpoint-12-2").is_dir()
    assert "damaged-checkpoint-12-2" in " ".join(runs.finish(config(), tmp_path, Display(live=False))["warnings"])


def damage(file):
    content = bytearray(file.read_bytes())
    quarter = len(content) // 4
    content[quarter : 3 * quarter] = bytes(b ^ 0xFF for b in content[quarter : 3 * quarter])
    file.write_bytes(content)


def test_where_the_best_checkpoint_is_damaged_the_next_best_is_scored_and_said(tmp_path):
    made = config()
    made.validation.every = 1
    trained(tmp_path, made)
    folder = tmp_path / "checkpoints"
    index = json.loads((tmp_path / "checkpoints.json").read_text())
    scores = {"8": 0.9, "12": 0.1}
    for step, score in scores.items():
        index[step]["score"] = score
    (tmp_path / "checkpoints.json").write_text(json.dumps(index))
    # What was noted counts, whatever became of the file that Orbax keeps.
    shutil.rmtree(folder / "4", ignore_errors=True)
    (folder / "8" / "metrics" / "metrics").write_text("{cut")
    assert best_of(folder) == 8 and load_whole(tmp_path)[2:] == (8, "")
    damage(max((folder / "8").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0))
    with pytest.raises(Damaged, match=r"checkpoint 8 in .*; checkpoint 'last' is another"):
        load_run(tmp_path)  # of a teacher, say
    loaded = load_whole(tmp_path)
    assert loaded.step == 12 and "checkpoint 8 in" in loaded.instead and "the next best, 12, is used" in loaded.instead
    report = runs.finish(made, tmp_path, Display(live=False))
    assert [row["checkpoint"] for row in report["results"]] == ["best", "last"]
    assert any("(best): checkpoint 8" in line and "the next best, 12" in line for line in report["warnings"])
    assert (
        cli_evaluate.main(["evaluate", f"--workdir={tmp_path}", "--protocol=clean", f"--out={tmp_path / 'out'}"]) == 0
    )
    assert "the next best, 12" in (tmp_path / "out" / "report.json").read_text()


def test_what_was_read_beside_a_damaged_array_fails_without_a_traceback(tmp_path, monkeypatch, caplog):
    rng, said = np.random.default_rng(0), []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    networks = {"params": {f"a{i}": rng.normal(size=(64, 64)).astype("f4") for i in range(64)}, "stats": {}}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, networks)
    checkpoints.wait()
    files = [path for path in (tmp_path / "checkpoints" / "1").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 4)
    for _ in range(4):
        with pytest.raises(Damaged, match=r"checkpoint 1 in .* cannot be read"):
            checkpoints.restore_networks(1)
    checkpoints.close()
    time.sleep(0.2)  # the reader's threads are done
    assert not said and not caplog.records


def test_where_no_checkpoint_can_be_read_nothing_is_trained_anew(whole, tmp_path):
    trained(tmp_path)
    index = json.loads((tmp_path / "checkpoints.json").read_text())
    (tmp_path / "checkpoints.json").write_text(json.dumps({step: {"sha256": "0"} for step in index}))
    with pytest.raises(InputError, match=r"no checkpoint can be used: checkpoint 12 .* is damaged"):
        trained(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "8"]


def test_other_data_than_the_run_began_on_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 300), ("test", 50)):
        image = rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
        np.savez(tmp_path / f"{part}.npz", image=image, label=np.arange(count) % 10)
    made = config()
    made.data.update({"path": str(tmp_path), "examples": 0, "validation": 0})
    prepare(tmp_path / "run", build(made))
    prepare(tmp_path / "run", build(made))
    np.savez(tmp_path / "test.npz", image=image, label=(np.arange(count) + 1) % 10)
    with pytest.raises(InputError, match="began on another test set"):
        prepare(tmp_path / "run", build(made))


def test_divergence_is_one_line_or_a_way_back(tmp_path):
    made = config()
    made.optimizer.update({"learning_rate": 1e30, "momentum": 0.0})
    with pytest.raises(
        InputError, match=r"training diverged, epoch 1, step \d: .*loss is .*; parameters of model"
    ) as error:
        trained(tmp_path / "stop", made)
    assert "the last good checkpoint is the beginning; try a lower optimizer.learning_rate" in str(error.value)
    made.on_divergence, made.optimizer.learning_rate = "rollback", 0.4
    with pytest.MonkeyPatch.context() as patch:
        # A network that diverges above a learning rate: whatever the arithmetic, the third try is the first that holds.
        import advjax.runs.train as module

        check = module._Training._check

        def too_fast(self, step, averages, state):
            check(self, step, {"loss": 1.0 if self.rollbacks >= 2 else math.nan}, state)

        patch.setattr(module._Training, "_check", too_fast)
        trained(tmp_path / "back", made)
    records = read_metrics(tmp_path / "back" / "metrics.jsonl")
    assert [record["rollbacks"] for record in records] == [2] * EPOCHS
    assert records[0]["learning_rate"] == pytest.approx(0.1)


def test_memory_that_runs_out_is_one_line_that_names_what_to_change(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123456789 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr("advjax.training.Trainer.steps", fails)
        with pytest.raises(
            InputError, match=r"memory ran out: lower batch_size, it is 100, or raise microbatches, it is 1"
        ):
            trained(tmp_path)
    monkeypatch.setattr("advjax.runs.train.attack_dataset", fails)
    with pytest.raises(InputError, match=r"memory ran out: lower evaluation\.batch_size"):
        trained(tmp_path)


def test_a_signal_does_not_wait_for_the_measurement_of_a_teacher(tmp_path):
    experiment = build(config())
    module = experiment.modules["model"]
    teacher = Teacher("robust", "a file", module, models.init(module, jax.random.key(0), (8, 8, 1)))
    experiment = experiment._replace(teachers={"robust_teacher": teacher})
    with pytest.raises(Stopped, match="during the measurement of teacher robust"):
        prepare_teachers(experiment, tmp_path, Display(live=False), Watcher(0))


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs more rights")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


class Fault(Watcher):
    """Something that happens to the disk while training looks whether it is to stop."""

    def __init__(self, after, happens):
        super().__init__(after)
        self.happens = happens

    @property
    def signal(self):
        self.seen += 1
        if self.seen == self.after:
            self.happens()
        return None

    @signal.setter
    def signal(self, value):
        pass


def fill(place, left=0):
    """Leaves so many bytes of a disk, which is written to meanwhile."""
    with open(place / "ballast", "wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        file.truncate(max(0, file.tell() - left))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("left", [0, 2**14], ids=["full", "nearly full"])
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_saved(whole, disk, capsys, left):
    run = disk / "run"
    with pytest.raises(Stopped):
        trained(run, interrupts=Watcher(2))
    before = content(run / "checkpoints" / "3")
    capsys.readouterr()
    assert cli.guarded(lambda argv: trained(run, interrupts=Fault(2, lambda: fill(disk, left))), []) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "No space left on device; the same command goes on" in said
    assert said.startswith(f"error: {run}")
    assert content(run / "checkpoints" / "3") == before
    (disk / "ballast").unlink()
    assert trained(run) == whole[1] and comparable(run) == comparable(whole[0])


def test_too_little_space_is_refused_before_a_folder_is_made(disk):
    made = config()
    made.network.width = 32
    with pytest.raises(InputError, match=r"^workdir .*run is on a disk with 0\.00 GB left, checkpoints need 0\.01 GB"):
        runs.finish(made, disk / "run")
    assert not list(disk.iterdir())


def test_a_lost_folder_or_a_read_only_disk_is_one_line(whole, disk, capsys):
    run = disk / "run"
    with pytest.raises(Stopped):
        trained(run, interrupts=Watcher(4))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert cli.guarded(lambda argv: trained(run), []) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "workdir must be a folder that can be written to" in said
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    status = cli.guarded(lambda argv: trained(run, interrupts=Fault(1, lambda: shutil.rmtree(run))), [])
    said = capsys.readouterr().err
    assert (status, len(said.splitlines())) == (1, 1) and "No such file or directory; the same command goes on" in said
    assert trained(run) == whole[1] and comparable(run) == comparable(whole[0])


def test_a_second_process_says_who_has_the_folder(tmp_path):
    code = "import sys, pathlib; from advjax.runs.interrupts import alone\nwith alone(pathlib.Path(sys.argv[1])): pass"
    with alone(tmp_path):
        process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert f"is in use by process {os.getpid()} on " in process.stderr
    assert not (tmp_path / ".lock.json").exists()
    with alone(tmp_path):
        pass


def test_signals_are_taken_once_and_given_back(monkeypatch):
    before, ended = signal.getsignal(signal.SIGTERM), []
    monkeypatch.setattr(os, "_exit", ended.append)
    with listening() as interrupts:
        assert interrupts.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert (interrupts.signal, interrupts.name, ended) == (signal.SIGTERM, "SIGTERM", [])
        signal.raise_signal(signal.SIGINT)
    assert ended == [130]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_checkpoint_is_held_to_what_was_saved(tmp_path):
    state = {"params": {"a": jax.numpy.arange(4.0)}, "stats": {"a": {}}}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state, note={"totals": {"loss": [1.0, 2.0]}})
    checkpoints.wait()
    assert checkpoints.note_of(1)["totals"] == {"loss": [1.0, 2.0]}
    np.testing.assert_array_equal(checkpoints.restore_networks(1)["params"]["a"], np.arange(4.0))
    (tmp_path / "checkpoints" / "stray").mkdir()
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.all == [1]
    again.close()


LOADS = """
import sys
import numpy as np
from advjax.training import Checkpoints
checkpoints = Checkpoints(__import__("pathlib").Path(sys.argv[1]))
saved = checkpoints.restore_networks(1)
assert np.array_equal(saved["params"]["a"], np.arange(8.0))
checkpoints.close()
"""


def test_what_four_devices_saved_is_loaded_where_there_is_one(tmp_path):
    state = parallel.replicate({"params": {"a": np.arange(8.0, dtype=np.float32)}, "stats": {}}, jax.devices()[:4])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    checkpoints.close()
    one = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    command = [sys.executable, "-c", LOADS, str(tmp_path / "checkpoints")]
    process = subprocess.run(command, capture_output=True, text=True, env=one)
    assert process.returncode == 0, process.stderr
