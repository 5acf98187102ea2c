"""One small run that the tests of the rooms share: PGD-AT with a network of a few weights on three classes of 4x4 pixels."""

import numpy as np
import pytest

from advjax import runs
from advjax.runs.display import Display


def bright_rows(n, seed):
    """n images whose bright row is their class: learnt in a few steps."""
    label = np.arange(n) % 3
    image = np.random.default_rng(seed).integers(0, 60, (n, 4, 4, 1))
    image[np.arange(n), label] += 150
    return image.astype(np.uint8), label


@pytest.fixture(scope="session")
def small_config(tmp_path_factory):
    """Its config, two epochs of three steps; copy it before changing it."""
    path = tmp_path_factory.mktemp("small") / "rows.npz"
    (x_train, y_train), (x_test, y_test) = bright_rows(112, 0), bright_rows(32, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    config = runs.default("pgd_at")
    config.update({"epochs": 2, "batch_size": 32, "compilation_cache": "off"})
    config.network.update({"name": "tiny_cnn", "width": 2})
    config.data.update({"name": "npz", "path": str(path), "augment": "none", "validation": 16})
    config.attack.update({"eps": "0.2", "step_size": "0.1", "steps": 1})
    config.validation.steps = 1
    config.log.update({"every_steps": 2, "tensorboard": False})
    config.evaluation.update({"protocol": "clean", "examples": 16})
    return config


@pytest.fixture(scope="session")
def small_run(small_config, tmp_path_factory):
    """The folder of the finished run."""
    workdir = tmp_path_factory.mktemp("run") / "small"
    runs.finish(small_config, workdir, Display(live=False))
    return workdir
