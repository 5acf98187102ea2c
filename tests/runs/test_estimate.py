"""What a run would be: said without training, measured with stand-ins for teachers that are not there yet."""

import dataclasses
import types

import jax
import numpy as np

from advjax import models, runs
from advjax.runs.display import Display
from advjax.runs.estimate import describe, time_step, with_stand_ins
from advjax.runs.experiment import Teacher


def test_a_description_names_data_networks_and_time(small_config, capsys):
    experiment = runs.build(small_config)
    describe(experiment, Display(live=False))
    text = capsys.readouterr().out
    count = models.parameter_count(experiment.modules["model"], (4, 4, 1))
    assert "data: npz, 3 classes, images (4, 4, 1), 96 to train, 16 to validate, 32 to test" in text
    assert f"network model: TinyCNN, {count:,} parameters" in text
    assert '"eps": "0.2"' in text and "6 steps take about" in text


def test_a_step_is_timed_without_what_came_before(small_config):
    compiling, step = time_step(runs.build(small_config), repeats=2)
    assert 0 < step < compiling


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
