"""Training on images that stream ends in the parameters of training on images in memory, to the bit."""

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from advjax.data import load
from advjax.errors import InputError
from advjax.methods import PGDAT, SWA, TE, TrainingAttack
from advjax.training import StepConfig, Trainer
from tests.helpers import ToyNet, distance

SHAPE, CLASSES = (8, 8, 3), 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 7), ("val", 1)):
        for label in range(CLASSES):
            (root / part / str(label)).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, SHAPE, dtype=np.uint8)
                Image.fromarray(image).save(root / part / str(label) / f"{i}.png")
    return root


def test_streaming_ends_in_the_same_parameters_from_wherever_it_begins(folder):
    streamed, resident = (load("image_folder", folder, streaming=each).train for each in (True, False))
    # A state per example, noise by the examples' ids, augmentation by step and id, a padded last batch.
    method = TE(TrainingAttack(steps=1), start=0.0)
    config = StepConfig(CLASSES, epochs=2, seed=3, augment="crop2+flip")
    trainer = Trainer(method, {"model": ToyNet()}, optax.sgd(0.1, 0.9), config)
    first = jax.device_get(trainer.init(SHAPE, resident.label))
    states = [first, *(jax.device_get(s) for _, s, _ in trainer.steps(trainer.place(first), resident, 8))]
    assert len(states) == 7 and jax.tree.leaves(first.method.per_example)
    for begin, workers in ((0, 0), (2, 2)):
        steps = trainer.steps(trainer.place(states[begin]), streamed, 8, first=begin, workers=workers)
        for step, state, _ in steps:
            assert distance(jax.device_get(state), states[step]) == 0.0, step


def test_a_method_that_goes_over_the_epoch_again_needs_memory(folder):
    method = SWA(PGDAT(TrainingAttack(steps=1)))
    trainer = Trainer(method, {"model": ToyNet(), "model_swa": ToyNet()}, optax.sgd(0.1), StepConfig(CLASSES))
    with pytest.raises(
        InputError, match=r"^train must be in memory: after an epoch the method sees all again, for model"
    ):
        next(trainer.steps(None, load("image_folder", folder, streaming=True).train, 8))
