"""The types of a run: what a config resolves to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from advjax import compiling, models
from advjax.data import Dataset, Split
from advjax.evaluate import Attack
from advjax.methods import Method
from advjax.numbers import number
from advjax.runs import schema
from advjax.runs.schema import Config
from advjax.runs.writers import Writer


class Parts(NamedTuple):
    """The data of a run.

    Attributes:
        dataset: the data, `train` without the validation part.
        validation: the validation part, possibly empty.
        validation_index: rows of the whole training set that make it up.
        extra: extra training images, mapped from their file; None if there are none.
    """

    dataset: Dataset
    validation: Split
    validation_index: np.ndarray
    extra: Split | None = None


class Teacher(NamedTuple):
    """A frozen network.

    Attributes:
        role: its name in the config and in the report, `robust` for the network `robust_teacher`.
        source: where it comes from, as the report says it.
        module: the network.
        variables: its variables; None until it is trained.
        training: the `Experiment` that trains it; None for a teacher that is given.
        checkpoint: which checkpoint of that experiment it is.
        member: which of its networks.
    """

    role: str
    source: str
    module: nn.Module
    variables: Any
    training: Any = None
    checkpoint: str = "best"
    member: str = ""

    @property
    def architecture(self) -> str:
        """Name of the network in the registry."""
        return models.describe(self.module)[0]


class Experiment(NamedTuple):
    """A resolved config: everything that a run needs, nothing of it computed yet.

    Attributes:
        config: what was asked for.
        parts: the data.
        method: what is trained.
        modules: name -> module, of every network of the method.
        optimizer: applied to each trained network.
        schedule: its learning rate by step.
        devices: where it runs.
        given: name -> variables to start from (`init_from`).
        teachers: name of the frozen or pretrained network -> teacher.
        attacks: the protocol of the evaluation.
        writers: of the metrics, beside `metrics.jsonl`.
        surrogate: what transfer attacks are crafted on, module and variables, where it is a finished run's network.
    """

    config: Config
    parts: Parts
    method: Method
    modules: Mapping[str, nn.Module]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    devices: Sequence[jax.Device]
    given: Mapping[str, Any]
    teachers: Mapping[str, Teacher]
    attacks: Sequence[Attack]
    writers: Sequence[type[Writer]] = ()
    surrogate: tuple[nn.Module, Any] | None = None

    @property
    def dataset(self) -> Dataset:
        """The data, `train` without the validation part."""
        return self.parts.dataset

    @property
    def validation(self) -> Split:
        """The validation part, possibly empty."""
        return self.parts.validation

    @property
    def frozen(self) -> dict[str, Any]:
        """name -> variables of the teachers that are there and are not trained."""
        return {name: self.teachers[name].variables for name in self.method.frozen if self._is_there(name)}

    @property
    def initial(self) -> dict[str, Any]:
        """name -> variables that trained networks start from: `init_from`, and teachers that are trained on."""
        trained_on = {name: self.teachers[name].variables for name in self.method.pretrained if self._is_there(name)}
        return {**self.given, **trained_on}

    def _is_there(self, name: str) -> bool:
        return self.teachers[name].variables is not None

    @property
    def multiplied(self) -> str:
        """How float32 is multiplied, where that is less exact than it sounds; empty elsewhere."""
        platform, asked_for = self.devices[0].platform, compiling.asked_for()
        if platform == "cpu" or asked_for in ("highest", "float32", "F32_F32_F32"):
            return ""
        if asked_for:
            return f"training and scoring multiply float32 as jax_default_matmul_precision={asked_for} says"
        if (self.config.precision, self.config.products) != ("float32", "default"):
            return ""
        kind = "one bfloat16 pass" if platform == "tpu" else "TF32"
        return f"training multiplies float32 in {kind} (products=highest: in float32); scoring in float32"

    @property
    def plain(self) -> dict[str, Any]:
        """The config as JSON keeps it."""
        return schema.plain(self.config)

    @property
    def summary(self) -> dict[str, str]:
        """What a person wants to see first, a line each."""
        config, dataset = self.config, self.dataset
        networks = {
            name: f"{models.describe(module)[0]}, {models.parameter_count(module, dataset.image_shape):,} parameters"
            for name, module in self.modules.items()
        }
        same = len(set(networks.values())) == 1
        if same and len(networks) > 1:
            networks = {"networks": f"{len(networks)} x {next(iter(networks.values()))}"}
        return {
            "method": config.method["name"],
            "data": f"{dataset.name}: {len(dataset.train.label):,} images to train, {len(self.validation.label):,} to "
            f"validate, {len(dataset.test.label):,} to test",
            **{name.replace("model", "network"): described for name, described in networks.items()},
            "threat_model": f"{self.norm} {config.attack.eps}",
            "course": f"{config.epochs} epochs of {self.steps_per_epoch} steps, batch {config.batch_size}",
            "devices": f"{len(self.devices)} x {self.devices[0].device_kind}",
        }

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch, the last one padded."""
        return -(-len(self.dataset.train.label) // self.config.batch_size)

    @property
    def eps(self) -> float:
        """Radius of the threat model."""
        return number(self.config.attack.eps)

    @property
    def norm(self) -> str:
        """Norm of the threat model."""
        return self.config.attack.norm
