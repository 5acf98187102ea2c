"""What changes during training, and nothing else: the pytree that is checkpointed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from advjax import models
from advjax.methods.base import Method, State


@struct.dataclass
class TrainState:
    """State of a run between two steps.

    Attributes:
        step: int32, steps done.
        params: name -> parameters, of the trained and the averaged networks.
        stats: name -> BatchNorm statistics, of the same.
        opt_state: name -> optimizer state, of the trained networks.
        method: the method's own state.
    """

    step: jax.Array
    params: dict[str, Any]
    stats: dict[str, Any]
    opt_state: dict[str, Any]
    method: State

    def variables(self, name: str = "model") -> dict[str, Any]:
        """A network's variables, `{"params": ..., "batch_stats": ...}`, as `advjax.logits_fn` takes them.

        They are the state's own arrays, which the next step takes: `jax.device_get` keeps a copy.

        Args:
            name: of a trained or averaged network, as the method calls it.
        """
        return {"params": self.params[name], "batch_stats": self.stats[name]}


def create_state(
    method: Method,
    modules: Mapping[str, nn.Module],
    optimizer: optax.GradientTransformation,
    seed: int,
    labels: np.ndarray,
    num_classes: int,
    image_shape: tuple[int, int, int],
    given: Mapping[str, Any] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        method: what is trained.
        modules: name -> module, of every network of the method.
        optimizer: the same for every network, unless the method has another for it; each has its own state.
        seed: a network's initial parameters depend on it and on the network's place among the method's.
        labels: training labels [N].
        num_classes: number of classes.
        image_shape: (H, W, C).
        given: name -> variables to start from instead of fresh ones; of `method.pretrained` all.
    """
    variables = {}
    # Counted on from the frozen networks: a student never starts as a teacher that was trained with the same seed did.
    for index, name in enumerate(method.trained, start=len(method.frozen)):
        key = jax.random.fold_in(jax.random.key(seed), index)
        variables[name] = (given or {}).get(name) or models.init(modules[name], key, image_shape)
    rules = {name: method.optimizer(name, optimizer, 0, 1) for name in method.trained}
    opt_state = {name: rule.init(variables[name]["params"]) for name, rule in rules.items()}
    for name, source in method.averaged.items():
        variables[name] = jax.tree.map(jnp.copy, variables[source])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={name: value["params"] for name, value in variables.items()},
        stats={name: value.get("batch_stats", {}) for name, value in variables.items()},
        opt_state=opt_state,
        method=method.init_state(labels, num_classes),
    )
