"""The log of a training: whole lines, cut where a run resumes, and everything that is written beside it."""

import json

import numpy as np
import pytest

from advjax.errors import InputError
from advjax.runs.exhibits import FILE, Exhibits
from advjax.runs.metrics import MetricsLog, read_metrics
from advjax.runs.writers import TensorBoard, make_writers, publish


class Kept:
    """A writer that keeps what it is told."""

    made: list = []  # noqa: RUF012

    def __init__(self, workdir, step):
        self.step, self.records, self.closed = step, [], False
        Kept.made.append(self)

    def write(self, record):
        self.records.append(record)

    def close(self):
        self.closed = True


def record(step, **values):
    return {"step": step, "epoch": 1, "seconds": 0.5 * step, "loss": 1.0 / step, **values}


def test_writers_get_every_record_and_the_step_they_begin_at(tmp_path):
    Kept.made.clear()
    log = MetricsLog(tmp_path, 0, [Kept])
    records = [record(1), record(2), record(3)]
    for each in records:
        log.write(each)
        assert read_metrics(tmp_path / "metrics.jsonl")[-1] == each  # on the disk already
    log.close()
    resumed = MetricsLog(tmp_path, 2, [Kept])
    assert resumed.seconds == 1.0  # the clock goes on
    resumed.write(record(3, loss=7.0))
    resumed.close()
    first, second = Kept.made
    assert (first.step, first.records, first.closed) == (0, records, True)
    assert (second.step, [each["loss"] for each in second.records]) == (2, [7.0])
    assert read_metrics(tmp_path / "metrics.jsonl") == [*records[:2], record(3, loss=7.0)]


@pytest.mark.parametrize(
    "tail",
    [
        b'{"step": 3, "sec',
        b"\xff\xfe\n",
        b"[3]\n",
        b"3\n",
        b'{"step": "3", "seconds": 1}\n',
        b'{"step": 3}\n',
        b'{"step": 3, "epoch": "x", "seconds": 1}\n',
        b'{"step": 3, "epoch": 1, "seconds": Infinity}\n',
        b"[" * 100_000,
        b'{"step": NaN, "epoch": 1, "seconds": 1}\n',
        b'{"step": 3, "epoch": 1, "seconds": 1, "loss": [1]}\n',
        b'{"step": 3, "epoch": 1, "seconds": 1, "loss": 1%s}\n' % (b"0" * 400),
        b'{"step": true, "epoch": 1, "seconds": 1}\n',
    ],
    ids=lambda tail: tail[:40].decode(errors="replace"),
)
@pytest.mark.filterwarnings("ignore:.*is damaged and left out")
def test_a_cut_line_ends_the_log(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record(1)), json.dumps(record(2))]
    path.write_bytes("".join(line + "\n" for line in lines).encode() + tail + b"\n" + lines[0].encode())
    assert read_metrics(path) == [record(1), record(2)]
    MetricsLog(tmp_path, 9).close()
    assert path.read_text().splitlines() == lines
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_damaged_line_in_the_middle_is_said_and_costs_itself_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([json.dumps(record(1)), '{"step": 2', json.dumps(record(3)), '{"st']))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: line 2 is damaged and left out \(1 of 4\)"):
        assert read_metrics(path) == [record(1), record(3)]


def test_tensorboard_has_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    events = TensorBoard(tmp_path, 0)
    events.write(record(3, note="text"))
    events.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content = file.read_bytes()
    assert b"loss" in content and b"seconds" in content and b"note" not in content


def test_tensorboard_has_the_results_and_the_images(tmp_path):
    pytest.importorskip("tensorboardX")
    shown = dict.fromkeys(Exhibits._fields, np.zeros(0)) | {
        "attack": "pgd20",
        "image": np.zeros((2, 4, 4, 3), np.uint8),
        "perturbation": np.full((2, 4, 4, 3), 0.1, np.float32),
    }
    (tmp_path / "evaluation/model-best").mkdir(parents=True)
    np.savez(tmp_path / "evaluation/model-best" / FILE, **shown)
    publish([TensorBoard], tmp_path, 3, REPORT)
    (file,) = (tmp_path / "tensorboard").iterdir()
    content = file.read_bytes()
    for name in (b"model/best/pgd20", b"model-best/clean", b"model-best/adversarial", b"PNG"):
        assert name in content


def test_writers_by_name():
    assert make_writers(["tests.runs.test_metrics:Kept"]) == [Kept]
    with pytest.raises(
        InputError, match=r"^log\.writers must have the methods write and close, .*read_metrics has not$"
    ):
        make_writers(["advjax.runs.metrics:read_metrics"])
    with pytest.raises(InputError, match="did you mean Kept"):
        make_writers(["tests.runs.test_metrics:Keept"])
    with pytest.raises(InputError, match="unknown writer 'wandbb'; did you mean wandb"):
        make_writers(["wandbb"])


REPORT = {"results": [{"network": "model", "checkpoint": "best", "attack": "pgd20", "accuracy": 0.25}]}


def trained(tmp_path, writer):
    """A run that stops at step 2, goes on, and is reported."""
    (tmp_path / "config.json").write_text('{"method": {"name": "trades", "beta": 6.0}}')
    for steps in ((1, 2), (3,)):
        log = MetricsLog(tmp_path, steps[0] - 1, [writer])
        for step in steps:
            log.write(record(step, note="text"))
        log.close()
    publish([writer], tmp_path, 3, REPORT)


def test_mlflow_has_one_run_with_config_course_and_results(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    trained(tmp_path, *make_writers(["mlflow"]))
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.data.params == {"method.name": "trades", "method.beta": "6.0"}
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5, 1 / 3]
    assert run.data.metrics["model/best/pgd20"] == 0.25
    assert run.info.status == "FINISHED"


def test_wandb_goes_on_in_the_run_it_began(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trained(tmp_path, *make_writers(["wandb"]))
    wandb.teardown()  # its service writes the files after a run has ended, and is done when it is gone
    identity = (tmp_path / "wandb-run.txt").read_text()
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) >= 1
    content = b"".join(file.read_bytes() for file in files)
    for name in (b"trades", b"loss", b"pgd20"):
        assert name in content
    assert b"note" not in content
