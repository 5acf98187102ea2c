"""Both mappings make the same program of every method; that it gives the same numbers is tested in test_step.py."""

import re
from collections import Counter

import jax
import pytest

from advjax import methods, models, parallel
from advjax.training.step import make_indexed_step, make_step
from tests.helpers import SHAPE, Run, ToyNet


def operations(run, mapping):
    """How often every operation stands in the program of a step, not compiled."""
    step = make_step(run.method, run.modules, run.optimizer, run.config, run.method.phase(0, 1))
    mapped = parallel.map_step(make_indexed_step(step, run.config, SHAPE, run.method.views), run.devices, mapping)
    frozen, data = parallel.replicate((run.frozen, run.rows), run.devices)
    text = mapped.lower(run._state, frozen, data, run.order()).as_text()
    return Counter(re.findall(r"stablehlo\.\w+", text))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in methods.names()
        if name not in ("p_1", "p_2", "mtard", "fgsm_rs", "saad_c", "iad_i", "fat_trades")
    ],
)
def test_pmap_and_shard_map_make_one_program(name):
    method = methods.create(name)
    teachers = {each: models.init(ToyNet(), jax.random.key(i), SHAPE) for i, each in enumerate(method.frozen)}
    run = Run(method, devices=2, frozen=teachers)
    made = operations(run, "pmap")
    assert made == operations(run, "shard_map")
    assert made["stablehlo.all_reduce"] > 0
