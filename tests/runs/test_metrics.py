"""The log of a training: whole lines, cut where a run resumes, and everything that is written beside it."""

import json

import pytest

from advjax.errors import InputError
from advjax.runs.metrics import MetricsLog, TensorBoard, make_writers, read_metrics


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
    "tail", [b'{"step": 3, "sec', b"\xff\xfe\n", b"[3]\n", b"3\n", b'{"step": "3", "seconds": 1}\n', b'{"step": 3}\n']
)
def test_a_cut_line_ends_the_log(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record(1)), json.dumps(record(2))]
    path.write_bytes("".join(line + "\n" for line in lines).encode() + tail + b"\n" + lines[0].encode())
    assert read_metrics(path) == [record(1), record(2)]
    MetricsLog(tmp_path, 9).close()
    assert path.read_text().splitlines() == lines
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_tensorboard_has_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    events = TensorBoard(tmp_path, 0)
    events.write(record(3, note="text"))
    events.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content = file.read_bytes()
    assert b"loss" in content and b"seconds" in content and b"note" not in content


def test_writers_by_name():
    assert make_writers(["tests.runs.test_metrics:Kept"]) == [Kept]
    with pytest.raises(
        InputError, match=r"^log\.writers must have the methods write and close, .*read_metrics has not$"
    ):
        make_writers(["advjax.runs.metrics:read_metrics"])
    with pytest.raises(InputError, match="did you mean Kept"):
        make_writers(["tests.runs.test_metrics:Keept"])
