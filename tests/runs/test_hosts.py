"""Several real processes over the loopback address: they train, evaluate, stop and die as one."""

import json
import signal
import socket
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from advjax import hosts, parallel, runs
from advjax.attacks import read_record
from advjax.attacks.engine.record import Record, merge
from advjax.errors import InputError
from advjax.runs.metrics import read_metrics
from experiments.soak.hosts import TOLERANCE, TOLERANCE_FLOAT64, Job, difference, group, verdicts

STREAMED = "streamed"
METHODS = ("pgd_at", "dynat", "sglr", "bmtard", "mat")
SHORT = {"epochs": 2, "hosts_timeout": 6.0, "validation.every": 2}
CLEAN = {**SHORT, "evaluation.protocol": "clean"}


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Of a method: AutoAttack for one of them, since its programs are the same for all; extra images for another."""
    file = tmp_path_factory.mktemp("extra") / "extra.npz"
    image = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    np.savez(file, image=image, label=np.arange(60) % 10)
    own = {"pgd_at": {**SHORT, "epochs": 4}, "sglr": {**CLEAN, "data.extra.path": str(file), "data.extra.ratio": 0.3}}
    return lambda method: own.get(method, CLEAN)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Fields of a run on an image folder that streams."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, each in (("train", 14), ("val", 3)):
        for label in range(3):
            (root / part / str(label)).mkdir(parents=True)
            for i in range(each):
                image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / part / str(label) / f"{i}.png")
    data = {"name": "image_folder", "path": root, "streaming": "True", "augment": "crop2+flip", "workers": 1}
    data |= {"validation": 0, "examples": 0}
    return {**CLEAN, "batch_size": 16, **{f"data.{name}": str(value) for name, value in data.items()}}


@pytest.fixture(scope="module")
def done(tmp_path_factory, pictures, fields):
    """What two processes of a device each made of every method, of one twice, and of one that was told to stop."""
    root = tmp_path_factory.mktemp("hosts")
    jobs = [Job(method, str(root / method), fields(method)) for method in METHODS]
    jobs.append(Job("natural", str(root / STREAMED), pictures))
    again = Job("pgd_at", str(root / "again"), fields("pgd_at"))
    stopped = Job("pgd_at", str(root / "stopped"), fields("pgd_at"), signal.SIGTERM, step=2)
    ended = group([*jobs, again, stopped], 2, 1)
    assert [each.status for each in ended] == [128 + signal.SIGTERM] * 2, ended
    return root, ended


@pytest.fixture(scope="module")
def alone(done, pictures, fields, tmp_path_factory):
    """The same runs by one process of two devices, which also goes on where the two were stopped."""
    root = tmp_path_factory.mktemp("alone")
    jobs = [Job(method, str(root / method), fields(method)) for method in METHODS]
    jobs.append(Job("natural", str(root / STREAMED), pictures))
    ended = group([*jobs, Job("pgd_at", str(done[0] / "stopped"), fields("pgd_at"))], 1, 2)
    assert [each.status for each in ended] == [0], ended
    return root


def test_two_processes_give_what_one_gives(done, alone):
    root, _ = done
    names = (*METHODS, STREAMED)
    assert {name: difference(root / name, alone / name) for name in names} == {
        name: pytest.approx(0.0, abs=TOLERANCE) for name in names
    }
    assert [verdicts(root / name) for name in names] == [verdicts(alone / name) for name in names]


def test_in_float64_nothing_is_left_of_what_rounding_makes(tmp_path):
    """Where devices sum in another order, float32 may end in other signs of an attack's gradient, and so anywhere."""
    for name, processes, devices in (("two", 2, 2), ("one", 1, 4)):
        job = Job("mat", str(tmp_path / name), {**CLEAN, "epochs": 1, "validation.every": 1})
        ended = group([job], processes, devices, float64=True)
        assert [each.status for each in ended] == [0] * processes, ended
    with jax.enable_x64(True):
        assert difference(tmp_path / "one", tmp_path / "two") <= TOLERANCE_FLOAT64


def test_it_repeats_to_the_bit(done):
    root, _ = done
    assert difference(root / "pgd_at", root / "again") == 0
    assert verdicts(root / "pgd_at") == verdicts(root / "again")
    examples = [path for name in ("pgd_at", "again") for path in (root / name / "evaluation").rglob("examples-*")]
    assert examples[0].read_bytes() == examples[-1].read_bytes()


def test_the_first_prints_and_writes_and_no_part_is_left(done):
    root, (first, second) = done
    assert "2 processes, 2 devices" in first.out and "report: " in first.out
    assert [line for line in second.out.splitlines() if not line.startswith("[Gloo]")] == []
    assert [path for path in root.rglob("*.part-*")] == []
    assert json.loads((root / "pgd_at" / "config.json").read_text())["hosts"] == "auto"
    assert [record["step"] for record in read_metrics(root / "pgd_at" / "metrics.jsonl")] == [3, 6, 9, 12]


def test_a_signal_to_one_stops_all_at_the_same_step_and_one_process_goes_on(done, alone):
    root, ended = done
    said = "stopped by SIGTERM after step 5, which is saved; the same command goes on"
    assert all(said in each.err.splitlines() for each in ended)
    assert difference(root / "stopped", root / "pgd_at") <= TOLERANCE
    assert verdicts(root / "stopped") == verdicts(root / "pgd_at")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_is_named_and_all_end(done, victim, tmp_path):
    job = Job("pgd_at", str(tmp_path), CLEAN, signal.SIGKILL, 4, victim)
    ended = group([job], 2, 1)
    assert [ended[victim].status, ended[1 - victim].status] == [-signal.SIGKILL, 1]
    last = ended[1 - victim].err.strip().splitlines()[-1]
    assert last.startswith(f"error: process {victim} of 2 on ") and "is gone" in last and "same command goes on" in last


def test_a_coordinator_that_is_just_dying_is_gone():
    """Of a process that is killed, the connections may be closed before the port is."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        address = f"127.0.0.1:{port.getsockname()[1]}"
        threading.Timer(0.3, port.close).start()
        assert not hosts._answers(address)
    with socket.create_server(("127.0.0.1", 0)) as port:
        assert hosts._answers(f"127.0.0.1:{port.getsockname()[1]}")


def test_one_process_is_trivial(tmp_path):
    hosts.join("off")
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.gather({"a": 1}) == [{"a": 1}] and hosts.by_first(lambda: (1, 2)) == (1, 2)
    hosts.check_same({"a": 1})
    hosts.check()
    with hosts.together():
        assert parallel.run_devices(2) == parallel.local_devices(2)


@pytest.mark.parametrize(
    "wrong", ["on", "10.0.0.1:9876", "10.0.0.1:9876,2,2", ":9876,2,1", "host:port,2,1", "a:1,2,-1"]
)
def test_where_a_process_stands_is_checked(wrong):
    assert hosts.parse("10.0.0.1:9876,4,3") == hosts.Place("10.0.0.1:9876", 4, 3)
    with pytest.raises(InputError, match=r"hosts must be auto, off, or COORDINATOR:PORT,COUNT,INDEX"):
        runs.read({"hosts": wrong})


def test_a_task_of_slurm_knows_its_place(monkeypatch):
    def slurm(**changes):
        task = {
            "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[003-006]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2",
            "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
        }  # fmt: skip
        for name, value in {**task, **changes}.items():
            monkeypatch.setenv(name, value)
        return hosts._of_cluster(1.0)

    place = slurm()
    assert (place.coordinator.partition(":")[0], place.count, place.index, place.local) == ("node003", 4, 2, None)
    assert slurm(SLURM_STEP_TASKS_PER_NODE="2(x2)", SLURM_LOCALID="1").local == [1]
    assert slurm(SLURM_NTASKS="1", SLURM_PROCID="0") is None
    monkeypatch.delenv("SLURM_JOB_ID")
    assert hosts._of_cluster(1.0) is None


def test_parts_of_a_record_become_one_whatever_is_left_of_an_earlier_try(tmp_path):
    path, shape, settings = tmp_path / "record.jsonl", (2, 1, 1), {"attacks": {"apgd": ""}}

    def add(ids, part=None):
        record = Record(path, settings, shape, part)
        for id in ids:
            entry = {"id": id, "attack": "apgd", "trial": 0, "robust": id % 2 == 0, "forwards": 1, "backwards": 1}
            record.add([(entry, None if id % 2 == 0 else np.full(shape, id))])
        record.close()
        return record

    add([0, 1])
    known = add([3, 4], part=0).entries
    assert sorted(id for id, _, _ in known) == [0, 1], "of the parts nobody reads"
    add([5], part=1)
    kept = {file: file.read_bytes() for file in tmp_path.iterdir() if ".part-1" in file.name}
    merge(path, shape)
    for file, content in kept.items():  # killed before this part was removed
        file.write_bytes(content)
    (tmp_path / "record.jsonl.part-2").write_bytes(b'{"format"')  # killed in its first line
    merge(path, shape)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["record.jsonl", "record.jsonl.x_adv"]
    assert {id: entry["attacks"]["apgd"] for id, entry in read_record(path).items()} == {
        0: True, 1: False, 3: False, 4: True, 5: False,
    }  # fmt: skip
    whole = Record(path, settings, shape)
    images = [float(whole.image(entry)[0, 0, 0]) for entry in whole.entries.values() if "row" in entry]
    whole.close()
    assert images == [1, 3, 5]
