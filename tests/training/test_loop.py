"""The trainer: the same steps whoever asks for them, from wherever they begin."""

import itertools

import jax
import numpy as np
import optax
import pytest

from advjax.data import Split, epoch_order
from advjax.errors import InputError
from advjax.methods import PGDAT, Natural, TrainingAttack
from advjax.training import Meter, StepConfig, Trainer, average
from tests.helpers import CLASSES, SHAPE, ToyNet, distance, toy_data

TRAIN = Split(*toy_data()[:2])  # 22 examples: two whole batches of 8 and a padded one an epoch


@pytest.fixture(scope="module")
def trainer():
    config = StepConfig(num_classes=CLASSES, epochs=2, seed=3)
    # A random start: the noise is keyed by the examples' ids.
    method = PGDAT(TrainingAttack(steps=1), clean_statistics=False)
    return Trainer(method, {"model": ToyNet()}, optax.sgd(0.1, 0.9), config)


@pytest.fixture(scope="module")
def course(trainer):
    """The state, on the host, and the metrics after every step of the run; the first is the state before it."""
    states, metrics = [jax.device_get(trainer.init(SHAPE, TRAIN.label))], [{}]
    for step, state, values in trainer.steps(trainer.place(states[0]), TRAIN, 8):
        assert step == len(states)
        states.append(jax.device_get(state))
        metrics.append(average(values))
    return states, metrics


def test_every_epoch_sees_every_example_once(course):
    states, metrics = course
    assert len(states) == 7 and int(states[-1].step) == 6
    assert all(distance(one.params, other.params) > 0 for one, other in itertools.pairwise(states))
    assert all(np.isfinite(values["loss"]) for values in metrics[1:])


@pytest.mark.parametrize("first", [2, 3], ids=["amid an epoch", "between epochs"])
def test_steps_from_anywhere_are_the_steps_through(trainer, course, first):
    taken = list(trainer.steps(trainer.place(course[0][first]), TRAIN, 8, first=first))
    assert [step for step, _, _ in taken] == list(range(first + 1, 7))
    assert distance(jax.device_get(taken[-1][1]), course[0][-1]) == 0.0


@pytest.mark.parametrize("number", [0, 2], ids=["a whole batch", "a padded one"])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_batch_of_ones_own_makes_the_same_step(trainer, course, number, kind):
    states, metrics = course
    rows, weight = (each[number] for each in epoch_order(3, 0, len(TRAIN.label), 8))
    images = TRAIN.image[rows] if kind == "uint8" else (TRAIN.image[rows] / np.float32(255)).astype(np.float32)
    state, values = trainer.step(trainer.place(states[number]), images, TRAIN.label[rows], ids=rows, weight=weight)
    assert distance(jax.device_get(state), states[number + 1]) < 1e-6
    np.testing.assert_allclose(average(values)["loss"], metrics[number + 1]["loss"], rtol=1e-6)


def test_what_cannot_be_trained_is_refused(trainer, course):
    with pytest.raises(InputError, match=r"positive multiple of the 4 devices"):
        trainer.step(trainer.place(course[0][0]), TRAIN.image[:6], TRAIN.label[:6])
    with pytest.raises(InputError, match=r"^modules must have the method's network 'model', they are \['net'\]$"):
        Trainer(Natural(), {"net": ToyNet()}, optax.sgd(0.1))


def test_given_variables_and_the_seed_choose_the_start(trainer, course):
    variables = {"params": course[0][-1].params["model"], "batch_stats": course[0][-1].stats["model"]}
    given = trainer.create(SHAPE, TRAIN.label, {"model": variables})
    assert distance(given.params, course[0][-1].params) == 0.0 and int(given.step) == 0
    assert jax.eval_shape(lambda: trainer.create(SHAPE, TRAIN.label)).params.keys() == {"model"}


def test_a_meter_averages_over_examples_and_begins_anew():
    meter = Meter()
    meter.add({"loss": np.float32([6.0, 2.0])})
    meter.add({"loss": np.float32([2.0, 2.0])})
    assert meter.take() == {"loss": 2.0}
    meter.add({"loss": np.float32([5.0, 1.0])})
    assert meter.take() == {"loss": 5.0}
    assert np.isnan(average({"loss": np.zeros(2)})["loss"])
