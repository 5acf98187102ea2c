"""Training steps as the training loop makes them, of any size, on made-up images."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from advjax import compiling, runs
from advjax.data import Dataset, Split
from advjax.errors import InputError
from advjax.runs import schema
from advjax.runs.estimate import with_stand_ins
from advjax.runs.experiment import Experiment, Parts
from advjax.runs.train import first_state, make_trainer


def made_up(count: int, classes: int, size: int) -> Parts:
    """Random images [count, size, size, 3] with random labels, none held out."""
    rng = np.random.default_rng(0)
    shape = (count, size, size, 3)
    split = Split(rng.integers(0, 256, shape, np.uint8), rng.integers(0, classes, count).astype(np.int32))
    empty = Split(split.image[:0], split.label[:0])
    return Parts(Dataset("made_up", split, empty, classes), empty, np.zeros(0, np.int64))


def experiment(
    name: str,
    *,
    network: str = "resnet18",
    width: int = 0,
    batch: int = 128,
    steps: int = 10,
    precision: str = "float32",
    classes: int = 10,
    devices: int = 1,
    size: int = 32,
    statistics: str = "running",
    forward_mode: bool = False,
    **fields: Any,
) -> Experiment:
    """A method of `experiments/configs` with one network in all roles.

    Args:
        name: FILE or FILE:variant.
        network: of every role, teachers included.
        width: of the network; 0: its own.
        batch: global batch size.
        steps: of every attack.
        precision: "float32" or "bfloat16".
        classes: number of classes.
        devices: how many.
        size: height and width of the images.
        statistics: that the attack runs on, "running" or "batch".
        forward_mode: XLA's own convolutions on CPU, too.
        **fields: of the method.
    """
    file, _, variant = name.partition(":")
    module = importlib.import_module(f"advjax.configs.{file}")
    config = schema.plain(schema.read(module.get_config(variant or "cifar10")))
    chosen = {"name": network, "width": width, "mean": (), "std": (), "forward_mode": forward_mode}
    config |= {"batch_size": batch, "precision": precision, "devices": devices, "network": chosen, "networks": {}}
    config["attack"] |= {"steps": steps, "statistics": statistics}
    for norm in ("l1", "l2"):
        if norm in config["method"]:
            config["method"][norm]["steps"] = steps
    config["method"] |= fields
    for teacher in config["teachers"].values():
        teacher["network"] = chosen
    return with_stand_ins(runs.build(config, made_up(4 * batch, classes, size)))


def parse(text: str) -> dict[str, Any]:
    """The options network, width and batch of `experiment`, from an entry NAME:width:batch of the flag `--networks`.

    Raises:
        InputError: it is none.
    """
    try:
        network, width, batch = text.split(":")
        return {"network": network, "width": int(width), "batch": int(batch)}
    except ValueError:
        raise InputError(f"--networks must be NAME:width:batch, it is {text!r}") from None


def pgd_at(attack_steps: int, **options: Any) -> Experiment:
    """PGD adversarial training as its users write it, without the clean forward after the step.

    Args:
        attack_steps: K.
        **options: of `experiment`.
    """
    return experiment("pgd_at", steps=attack_steps, clean_statistics=False, **options)


class Step:
    """A compiled training step with its state, called again and again; all phases of the method are on.

    Args:
        run: what is trained.
    """

    def __init__(self, run: Experiment) -> None:
        trainer, train = make_trainer(run), run.dataset.train
        self.mapped: Any = trainer.program(trainer.phase(run.config.epochs - 1), run.dataset.image_shape)
        order = trainer.order(len(train.label), run.config.batch_size, 0)
        self.state, frozen = trainer.place((first_state(trainer, run), run.frozen))
        self.rest = (frozen, trainer.data(train), order)
        self._call: Callable[..., Any] = self.mapped

    def __call__(self) -> Any:
        """One step; returns its metrics."""
        self.state, metrics = self._call(self.state, *self.rest)
        return metrics

    def compile(self, *, plain: bool = False) -> Any:
        """Compiles ahead of the first call; returns the program, which knows its memory.

        Args:
            plain: as JAX compiles by default, without `advjax.compiling.options`.
        """
        lowered = self.mapped.lower(self.state, *self.rest)
        self._call = compiled = lowered.compile(compiler_options=None if plain else compiling.options())
        return compiled
