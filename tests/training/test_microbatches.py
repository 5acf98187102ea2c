"""A batch taken in parts: the same step to rounding, and what BatchNorm makes of the parts."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from advjax import methods, models
from advjax.errors import InputError
from advjax.methods import MAT, PGDAT, TRADES, Natural
from advjax.models.layers import Conv, Linear
from advjax.training import StepConfig, Trainer
from tests.helpers import CLASSES, SHAPE, Run, distance, toy_data


class PlainNet(nn.Module):
    """`ToyNet` without BatchNorm: its examples do not meet."""

    num_classes: int = CLASSES
    stochastic = False

    @nn.compact
    def __call__(self, x, train=False):
        return Linear(self.num_classes)(nn.relu(Conv(4)(x)).reshape(len(x), -1))


def runs(method, **options):
    """One run for every number of parts, with networks whose examples do not meet."""
    names = (*method.trained, *method.frozen, *method.averaged)
    modules = dict.fromkeys(names, PlainNet())
    frozen = {name: models.init(PlainNet(), jax.random.key(i), SHAPE) for i, name in enumerate(method.frozen)}
    options = {"modules": modules, "frozen": frozen, **options}
    return [Run(method, microbatches=count, **options) for count in (1, 2)]


@pytest.mark.parametrize("name", ["te", "mat"])
def test_where_examples_do_not_meet_it_is_the_same_step(name):
    """Three steps of an epoch, the last batch padded: parameters, rows that are kept per example, and metrics."""
    method = methods.create(name, **({"start": 0.0} if name == "te" else {}))
    made = runs(method, phase=method.phase(0, 1), devices=2 if name == "mat" else 1)
    whole, parts = (run.step(3) for run in made)
    assert distance(whole.state.params, whole.initial.params) > 1e-3
    if name == "te":
        assert distance(whole.state.method.per_example, 0 * whole.initial.method.per_example) > 0.01
    assert distance(whole.state, parts.state) < 2e-5
    assert parts.metrics["robust_accuracy"] == pytest.approx(whole.metrics["robust_accuracy"])


def test_parts_normalise_as_devices_with_their_own_statistics_do():
    data = toy_data(16)
    # One device's part m has every second of its rows: what two devices have if the rows are sorted so.
    parts = Run(Natural(), data=data, microbatches=2)
    order = parts.order()
    devices = Run(Natural(), data=data, batch_norm="device", devices=2)
    cut = jax.tree.map(lambda leaf: np.stack([leaf[0][:, 0::2], leaf[0][:, 1::2]]), jax.device_get(order))
    devices.order = lambda epoch=0: jax.device_put(cut, jax.tree.leaves(Run.order(devices))[0].sharding)
    for run in (parts, devices):
        run.step(2)
    assert distance(parts.state.params, devices.state.params) < 1e-6
    assert distance(parts.state.stats, devices.state.stats) < 1e-6
    assert distance(parts.state.stats, parts.initial.stats) > 1e-3
    assert distance(parts.state.stats, Run(Natural(), data=data).step(2).state.stats) > 1e-4


def test_statistics_of_padding_alone_do_not_count():
    # Two rows, both the first device's: the second has padding alone, whose statistics are those of nothing.
    one, two = (Run(Natural(), data=toy_data(2), batch_norm="device", devices=n).step() for n in (1, 2))
    assert distance(one.state.stats, two.state.stats) < 1e-6


@pytest.mark.parametrize(
    ("method", "count", "batch", "message"),
    [
        (methods.create("bmtard"), 2, 8, "^microbatches must be 1 for BMTARD, whose step needs the whole batch"),
        (methods.create("trades_awp"), 2, 8, "^microbatches must be 1 for AWP"),
        (methods.create("pgd_at_gairat"), 2, 8, "^microbatches must be 1 for GAIRAT"),
        (MAT(sequential=True), 2, 8, "^microbatches must be 1 for MAT"),
        (PGDAT(), 3, 8, "^microbatches must be 1, or such that batch_size, 8, is a multiple of it times the 1 devices"),
    ],
)
def test_what_cannot_be_taken_in_parts_is_refused(method, count, batch, message):
    modules = dict.fromkeys((*method.trained, *method.frozen), PlainNet())
    images, labels = np.zeros((batch, *SHAPE), np.uint8), np.zeros(batch, np.int32)
    config = StepConfig(CLASSES, microbatches=count)
    with pytest.raises(InputError, match=message):
        Trainer(method, modules, Run(TRADES()).optimizer, config, jax.devices()[:1]).step(None, images, labels)


def test_only_what_says_so_is_taken_in_parts():
    divisible = {name for name in methods.names() if methods.create(name).divisible}
    assert {"natural", "pgd_at", "trades", "mart", "sglr", "mat", "rslad", "dynat", "seat"} <= divisible
    assert divisible.isdisjoint({"bmtard", "mtard", "ciard", "ramp", "avg", "dkl", "saad", "saad_c"})
    assert not dataclasses.replace(methods.create("mat"), sequential=True).divisible
