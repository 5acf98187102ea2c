"""What a run would be: said without training, measured with stand-ins for teachers that are not there yet."""

import dataclasses
import re
import types

import jax
import numpy as np
import pytest

from advjax import models, runs
from advjax.errors import InputError
from advjax.runs.build import load_parts
from advjax.runs.display import Display
from advjax.runs.estimate import compile_step, describe, memory, time_step, with_stand_ins
from advjax.runs.experiment import Teacher


def test_a_description_names_data_networks_and_time(small_config, capsys):
    experiment = runs.build(small_config)
    describe(experiment, Display(live=False))
    text = capsys.readouterr().out
    count = models.parameter_count(experiment.modules["model"], (4, 4, 1))
    assert "data: npz, 3 classes, images (4, 4, 1), 96 to train, 16 to validate, 32 to test" in text
    assert f"network model: TinyCNN, {count:,} parameters" in text
    assert '"eps": "0.2"' in text and "6 steps take about" in text
    assert re.search(r"memory: a step needs 0\.\d\d MiB on each device, of \d+\.\d\d GiB\n", text)


def test_a_step_that_does_not_fit_is_said_and_not_tried(small_config, capsys, monkeypatch):
    experiment = runs.build(small_config)
    step = compile_step(experiment)
    data = experiment.dataset.train.image.nbytes
    assert data < step.bytes < 100 * data
    assert 0 < time_step(experiment, step, repeats=2) < step.seconds
    monkeypatch.setattr(memory, "of_each", lambda devices: step.bytes - 1)
    monkeypatch.setattr("advjax.runs.estimate.time_step", None)
    describe(experiment, Display(live=False))
    text = capsys.readouterr().out
    assert "IT DOES NOT FIT, lower batch_size, it is 32, or raise microbatches, it is 1" in text
    assert "time: not measured" in text


def test_stand_ins_are_for_those_that_are_missing(small_config):
    experiment = runs.build(small_config)
    module = experiment.modules["model"]
    given = Teacher("robust", "a file", module, models.init(module, jax.random.key(5), (4, 4, 1)))
    missing = given._replace(role="clean", variables=None)
    experiment = experiment._replace(teachers={"robust_teacher": given, "clean_teacher": missing})
    ready = with_stand_ins(experiment)
    assert ready.teachers["robust_teacher"] is given and ready.teachers["clean_teacher"].role == "clean"
    shapes = (jax.tree.map(np.shape, teacher.variables) for teacher in ready.teachers.values())
    assert next(shapes) == next(shapes)


def test_training_in_float32_says_how_an_accelerator_multiplies(small_config):
    experiment = runs.build(small_config)
    assert experiment.multiplied == ""
    there = experiment._replace(devices=[types.SimpleNamespace(platform="tpu")])
    assert there.multiplied.startswith("training multiplies float32 in one bfloat16 pass")
    exact = dataclasses.replace(experiment.config, products="highest")
    assert there._replace(config=exact).multiplied == ""
    with jax.default_matmul_precision("highest"):
        assert there.multiplied == ""
    with jax.default_matmul_precision("tensorfloat32"):
        assert there._replace(config=exact).multiplied.startswith(
            "training and scoring multiply float32 as jax_default"
        )


def test_a_set_that_is_not_there_is_rehearsed_by_its_size(tmp_path):
    config = runs.default("pgd_at")
    config.data.data_dir = str(tmp_path)
    read = runs.read(config)
    with pytest.raises(InputError, match="cifar10"):
        load_parts(read)
    parts = load_parts(read, rehearsal=True)
    assert (len(parts.dataset.train.label), len(parts.validation.label), len(parts.dataset.test.label)) == (
        49_000,
        1_000,
        10_000,
    )
    assert "its published sizes" in parts.dataset.warnings[0]
    config.data.name = "cifar11"
    with pytest.raises(InputError, match="did you mean cifar10"):
        load_parts(runs.read(config), rehearsal=True)
