"""Every config and variant: it describes what can be built, as the contract says, without any data being read."""

import importlib

import numpy as np
import pytest

from advjax.cli import config_files
from advjax.evaluate import mean_over_networks
from advjax.models import variable_shapes
from advjax.runs import schema
from advjax.runs.build import create_optimizer
from advjax.runs.networks import create_method, create_modules, create_network

NAMES = [file.stem for file in config_files()]
ALWAYS = ("seed", "epochs", "batch_size", "network.name", "data.name", "data.path")
ALWAYS += tuple(f"attack.{field}" for field in ("norm", "eps", "steps", "step_size"))


TRACED = set()
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "imagenet2012": (224, 224, 3), "tiny_imagenet": (64, 64, 3)}


def trace(name, module, config):
    """What only a forward pass says of a network, such as an impossible depth; each once."""
    shape = SHAPES.get(config.data.name, (32, 32, 3))
    if (name, shape) not in TRACED:
        TRACED.add((name, shape))
        variable_shapes(module, shape)


def check(config, classes=10):
    """Method, networks and schedule of a config, and of those that train its teachers."""
    method = create_method(config)
    for module in create_modules(config, method, classes).values():
        trace(repr(module), module, config)
    _, rate = create_optimizer(config, 10, method)
    assert np.isfinite(rate(10 * config.epochs - 1))
    assert set(config.teachers) == {name.removesuffix("_teacher") for name in (*method.frozen, *method.pretrained)}
    plain = schema.plain(config)
    for teacher in config.teachers.values():
        create_network(teacher.network, classes, config.precision)
        shared = {key: plain[key] for key in ("seed", *schema.SHARED)}
        check(schema.read({**teacher.train, **shared, "network": teacher.network}))


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_describes_what_can_be_built(name):
    module = importlib.import_module(f"advjax.configs.{name}")
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        for field in ALWAYS:
            place = config
            for part in field.split("."):
                place = place[part]
        check(schema.read(config))
        config.epochs = 30
        check(schema.read(config))
    assert f"--config=experiments/configs/{name}.py" in module.__doc__
    if name != "quickstart":
        assert {"digits", "cifar10", "cifar100"} <= set(module.VARIANTS)


def test_the_mean_of_several_networks():
    rows = [
        {"network": network, "checkpoint": "last", "attack": attack, "accuracy": accuracy, "w_robust": robust}
        for network, attack, accuracy, robust in (
            ("peer0", "clean", 0.9, None),
            ("peer0", "pgd20", 0.5, 0.7),
            ("peer1", "clean", 0.8, None),
            ("peer1", "pgd20", 0.6, 0.7),
        )
    ]
    clean, robust = mean_over_networks(rows)
    assert (clean["attack"], clean["networks"], clean["accuracy"]) == ("clean", 2, pytest.approx(0.85))
    assert clean["w_robust"] is None
    assert (robust["accuracy"], robust["w_robust"]) == (pytest.approx(0.55), pytest.approx(0.7))
