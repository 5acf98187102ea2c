"""What the terminal shows, and which checkpoints stay."""

import json

import pytest

from advjax.runs.display import Display, duration, summary
from advjax.training.checkpoints import Checkpoints


def test_summary_shows_what_there_is():
    record = {"loss": 0.5, "images_per_second": 100.0, "train_clean_accuracy": 0.9, "train_robust_accuracy": 0.5}
    line = summary(record)
    assert "loss 0.5000" in line
    assert "clean  90.0%" in line
    assert "validation" not in line
    held_out = {"validation_clean_accuracy": 0.8, "validation_robust_accuracy": 0.4}
    assert "validation clean  80.0%" in summary({**record, **held_out})


@pytest.mark.parametrize("live", [False, True])
def test_display_prints_lines_in_every_mode(live, capsys):
    display = Display(live=live)
    display.start("training", 10)
    display.update(5, note="loss 1.0")
    display.line("epoch 1/2")
    display.stop()
    assert "epoch 1/2" in capsys.readouterr().out


def test_the_time_left_counts_no_compilation(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 101.0, 120.0])  # start; the first step, compiled; two more
    monkeypatch.setattr("advjax.runs.display.time.perf_counter", lambda: next(clock))
    display = Display(live=False)
    display.start("training", 10)
    for done in (1, 2, 3):
        display.update(done, note="loss 1")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["  training 1/10  loss 1", "  training 3/10  loss 1  1:10 left"]


RESULTS = [
    {"attack": attack, "network": "model", "checkpoint": checkpoint, "accuracy": accuracy}
    for checkpoint, attack, accuracy in [("best", "clean", 0.9), ("best", "pgd20", 0.5), ("last", "clean", 0.8)]
]


def test_quiet_says_warnings_and_the_table(capsys):
    display = Display(live=False, form="quiet")
    display.header(method="pgd_at")
    display.line("epoch 1")
    display.warning("near chance")
    display.results(RESULTS)
    out = capsys.readouterr().out
    assert "pgd_at" not in out and "epoch" not in out and "warning: near chance" in out
    assert [line.split() for line in out.splitlines() if line.startswith((" clean", " pgd20"))] == [
        ["clean", "90.0%", "80.0%"],
        ["pgd20", "50.0%", "-"],
    ]


def test_json_is_an_object_a_line(capsys):
    display = Display(form="json")
    display.header(threat_model="linf 8/255")
    display.event("epoch", "for people", epoch=1, loss=0.5, name="[red]x[/red] " + "y" * 300)
    display.results(RESULTS)
    run, epoch = map(json.loads, capsys.readouterr().out.splitlines())
    assert run == {"event": "run", "threat_model": "linf 8/255"}
    assert epoch == {"event": "epoch", "epoch": 1, "loss": 0.5, "name": "[red]x[/red] " + "y" * 300}


def test_duration():
    assert [duration(5), duration(65), duration(3725)] == ["0:05", "1:05", "1:02:05"]


def test_checkpoints_keep_the_last_the_best_and_every_nth(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=3)
    for epoch, score in enumerate((0.1, 0.5, 0.2, 0.5, 0.3, 0.1, 0.2), start=1):
        checkpoints.save(epoch, {"value": 1.0 * epoch}, score)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, every=3)
    assert checkpoints.last == 7
    assert checkpoints.best == 4  # the later of two equals
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()) == [3, 4, 6, 7]
    checkpoints.close()
