"""Every `digits` variant trains: a step in each half of its run, with its own phases, wrappers, attack and teachers."""

import importlib

import jax
import numpy as np
import pytest

from advjax import cli, models, runs
from advjax.runs.train import first_state, make_trainer

NAMES = [file.stem for file in cli.config_files() if file.stem != "quickstart"]
# Compiling is what takes time, and one convolution compiles faster than three.
NETWORK = {"name": "tests.helpers:ToyNet"}


@pytest.mark.parametrize("name", NAMES)
def test_the_digits_variant_trains(name):
    config = importlib.import_module(f"advjax.configs.{name}").get_config("digits")
    config.update({"epochs": 2, "batch_size": 32, "devices": 1})
    config.data.update({"examples": 32, "validation": 0})
    config.network.update(NETWORK)
    for teacher in config.teachers.values():
        teacher.network.update(NETWORK)
        teacher.train.batch_size = 32
    experiment = runs.build(config)
    shape = experiment.dataset.image_shape
    taught = {
        role: teacher._replace(variables=models.init(teacher.module, jax.random.key(7), shape))
        for role, teacher in experiment.teachers.items()
    }
    experiment = experiment._replace(teachers=taught)
    trainer = make_trainer(experiment)
    state = first_state(trainer, experiment)
    before = jax.tree.map(np.array, state.params)  # copies: a step takes the old state
    placed, frozen = trainer.place(state), trainer.place(experiment.frozen)
    for _, new, metrics in trainer.steps(placed, experiment.dataset.train, config.batch_size, frozen=frozen):
        state = new
        for metric, (total, count) in jax.device_get(metrics).items():
            assert np.isfinite(total / count), metric
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.stats)))
    for network in experiment.method.trained:
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before[network], dict(state.params)[network])
        assert max(jax.tree.leaves(moved)) > 0, network
