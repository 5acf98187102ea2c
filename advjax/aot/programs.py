"""The programs of an experiment, lowered for devices that are not there: nothing is computed, nothing is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import compiling, models, parallel, runs
from advjax.arithmetic import flops
from advjax.attacks.autoattack import Stage, stage
from advjax.attacks.engine.loops import as_partial, in_place
from advjax.attacks.engine.oracle import Example, Oracle
from advjax.data import Dataset, Split, to_rows
from advjax.evaluate.attack_dataset import forward
from advjax.parallel import Devices
from advjax.runs.build import load_parts
from advjax.runs.experiment import Experiment, Parts
from advjax.runs.schema import Config
from advjax.runs.train import first_state, make_trainer
from advjax.training.step import Data, Order

ATTACKS = ("apgd_ce", "apgd_t", "fab_t", "square")
NAMES = ("step", "forward", *ATTACKS)
# Data sets whose images need not be there: training images, their shape, classes.
_KNOWN = {
    "cifar10": (50_000, (32, 32, 3), 10),
    "cifar100": (50_000, (32, 32, 3), 100),
    "svhn_cropped": (73_257, (32, 32, 3), 10),
    "mnist": (60_000, (28, 28, 1), 10),
    "fashion_mnist": (60_000, (28, 28, 1), 10),
}


class Task(NamedTuple):
    """A program to be compiled.

    Attributes:
        name: `step`, with the phase where the method has several; `forward`; an attack of AutoAttack.
        batch: images, over all devices.
        lower: gives `jax.stages.Lowered`.
        arithmetic: gives the operations of one call on one device, counted from the shapes.
        trips: how often a loop runs whose number the program is given.
    """

    name: str
    batch: int
    lower: Callable[[], Any]
    arithmetic: Callable[[], float]
    trips: int = 1


def stand_in(config: Config) -> Parts:
    """Data of the config's shape: black images for a known name, the config's own data otherwise."""
    fields = config.data
    if fields.path or fields.name not in _KNOWN:
        return load_parts(config)
    count, shape, classes = _KNOWN[fields.name]
    shape = (fields.image_size, fields.image_size, shape[2]) if fields.image_size else shape
    left = fields.examples or count - fields.validation
    labels = (np.arange(left) % classes).astype(np.int32)
    empty = Split(np.zeros((0, *shape), np.uint8), np.zeros(0, np.int32))
    dataset = Dataset(fields.name, Split(np.zeros((left, *shape), np.uint8), labels), empty, classes)
    return Parts(dataset, empty, np.zeros(0, np.int64))


def experiment(config: Config, devices: Sequence[jax.Device]) -> Experiment:
    """What the config describes, on these devices.

    Raises:
        InputError: a field that is wrong, or a batch that cannot be cut evenly over the devices.
    """
    chosen = list(devices)[: config.devices or None]
    parallel.check_batch_size(config.batch_size, chosen)
    built = runs.build(dataclasses.replace(config, devices=0, init_from=""), stand_in(config))
    return built._replace(devices=chosen)


def phases(run: Experiment) -> dict[Hashable, int]:
    """The method's phases -> the first epoch of each; each has a program of its own."""
    epochs = run.config.epochs
    return {phase: epoch for epoch in range(epochs - 1, -1, -1) for phase in [run.method.phase(epoch, epochs)]}


def tasks(run: Experiment, names: Sequence[str], *, all_phases: bool = False) -> list[Task]:
    """The programs of these names (`NAMES`); of the step the last phase alone unless `all_phases`."""
    found = []
    for name in names:
        if name == "step":
            known = phases(run)
            chosen = list(known)[::-1] if all_phases else list(known)[:1]
            several = len(chosen) > 1
            found += [_step(run, each, f"{name} from epoch {known[each] + 1}" if several else name) for each in chosen]
        elif name == "forward":
            found.append(_forward(run))
        else:
            found.append(_attack(run, stage(name, run.norm, run.dataset.num_classes)))
    return found


def _step(run: Experiment, phase: Hashable, name: str) -> Task:
    trainer, shape, batch, train = make_trainer(run), run.dataset.image_shape, run.config.batch_size, run.dataset.train
    steps, share = run.steps_per_epoch, batch // len(run.devices)
    row = to_rows(np.zeros((1, *shape), np.uint8)).shape[1]
    images: Any = jax.ShapeDtypeStruct((len(train.label), row), jnp.uint8)
    data = Data(images, jnp.asarray(train.label))
    cut = (len(run.devices), steps, share)
    batches: Any = [jax.ShapeDtypeStruct(cut, dtype) for dtype in (jnp.int32, jnp.float32)]
    order = Order(*batches)
    state = jax.eval_shape(lambda: first_state(trainer, run))
    frozen = {each: models.variable_shapes(run.modules[each], shape) for each in run.method.frozen}
    args = (
        *parallel.described((state, frozen, data), run.devices),
        parallel.described(order, run.devices, by_rows=True),
    )
    program = trainer.program(phase, shape)
    return Task(name, batch, lambda: program.lower(*args), lambda: _counted(run.devices, program, *args))


def _network(run: Experiment, place: Devices) -> Any:
    """The evaluation-mode function of the network that is scored first, with shapes for its variables."""
    module = run.modules[run.method.evaluated[0]]
    return place.described(models.logits_fn(module, models.variable_shapes(module, run.dataset.image_shape)))


def _forward(run: Experiment) -> Task:
    place = Devices(run.devices)
    batch, network = place.batch_size(run.config.evaluation.batch_size), _network(run, place)
    x = place.described(jax.ShapeDtypeStruct((batch, *run.dataset.image_shape), jnp.float32), by_rows=True)

    def lower():
        with compiling.scoring(run.devices):
            return forward.lower(network, x)

    return Task("forward", batch, lower, lambda: _counted(run.devices, lambda f, x: f(x), network, x) / len(place))


def _attack(run: Experiment, chosen: Stage) -> Task:
    place, attack = Devices(run.devices), chosen.attack
    batch = place.batch_size(run.config.evaluation.batch_size)
    oracle, key = place.described((Oracle(as_partial(_network(run, place))), jax.eval_shape(jax.random.key, 0)))
    image: Any = jax.ShapeDtypeStruct((batch, *run.dataset.image_shape), jnp.float32)
    number = jnp.zeros(batch, jnp.int32)
    e: Any = place.described(Example(image, number, jnp.zeros(batch), number, number, number), by_rows=True)
    state = place.described(jax.eval_shape(attack.begin, e, key), by_rows=True)

    def lower():
        with compiling.scoring(run.devices):
            return in_place.lower(place.spread(attack), attack.chunk, state, (e, oracle, key))

    def count():
        return attack.chunk * _counted(run.devices, lambda *args: attack(0, *args), state, e, oracle, key) / len(place)

    return Task(chosen.name, batch, lower, count, attack.chunk)


def _counted(devices: Sequence[jax.Device], function: Any, *args: Any) -> float:
    with compiling.for_devices(devices):
        return flops(function, *args, most=True)
