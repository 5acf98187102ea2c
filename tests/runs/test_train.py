"""The course of a training in its folder: what is recorded when, what the best checkpoint is chosen by."""

import jax
import numpy as np
import pytest

from advjax import runs
from advjax.errors import InputError
from advjax.runs.build import load_parts
from advjax.runs.display import Display
from advjax.runs.metrics import read_metrics
from advjax.runs.train import first_state, make_trainer, score, train
from tests.helpers import distance

ALWAYS = {"step", "epoch", "seconds", "loss", "robust_accuracy", "learning_rate", "images_per_second"}
VALIDATED = {f"{part}_{kind}_accuracy" for part in ("train", "validation") for kind in ("clean", "robust")}


@pytest.fixture(scope="module")
def records(small_run):
    return read_metrics(small_run / "metrics.jsonl")


def test_records_come_every_so_many_steps_and_at_the_end_of_epochs(records):
    """Three steps an epoch, a record every two: at step 2, at the ends 3 and 6, and at step 4."""
    assert [(record["step"], record["epoch"]) for record in records] == [(2, 1), (3, 1), (4, 2), (6, 2)]
    for record in records:
        validated = VALIDATED if record["step"] % 3 == 0 else set()
        assert ALWAYS | validated == set(record)
        assert np.isfinite([record["loss"], record["learning_rate"]]).all() and record["images_per_second"] > 0
        assert all(0 <= record[name] <= 1 for name in record if name.endswith("accuracy"))
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)


def test_the_rate_in_a_record_is_that_of_its_step(records, small_config):
    schedule = runs.build(small_config).schedule
    assert [record["learning_rate"] for record in records] == [float(schedule(r["step"] - 1)) for r in records]
    assert records[0]["learning_rate"] > records[-1]["learning_rate"]


@pytest.mark.parametrize(("best_by", "expected"), [("clean", 0.8), ("robust", 0.4), ("mean", 0.6)])
def test_the_score_of_a_checkpoint(best_by, expected):
    record = {"validation_clean_accuracy": 0.8, "validation_robust_accuracy": 0.4, "train_clean_accuracy": 1.0}
    assert score(record, best_by) == pytest.approx(expected)
    assert score({"train_clean_accuracy": 1.0}, best_by) is None


def test_a_finished_training_is_left_alone(small_run, small_config):
    before = (small_run / "metrics.jsonl").read_bytes()
    train(runs.build(small_config), small_run, Display(live=False))
    assert (small_run / "metrics.jsonl").read_bytes() == before


def test_the_last_checkpoint_is_what_the_steps_lead_to(small_run, small_config):
    experiment = runs.build(small_config)
    trainer = make_trainer(experiment)
    first = trainer.place(first_state(trainer, experiment))
    *_, (step, state, _) = trainer.steps(first, experiment.dataset.train, 32)
    _, variables = runs.load_run(small_run, checkpoint="last")
    assert step == 6 and distance(jax.device_get(state.params["model"]), variables["params"]) == 0.0


def test_a_single_class_is_refused_before_anything_is_made(small_config):
    parts = load_parts(runs.read(small_config))
    alone = parts._replace(dataset=parts.dataset._replace(num_classes=1))
    with pytest.raises(InputError, match=r"data\.path has a single class"):
        runs.build(small_config, alone)
