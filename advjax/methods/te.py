"""TE: temporal ensembling in adversarial training (Dong et al. 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses
from advjax.fields import at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, PerExample, State, reached


@dataclasses.dataclass(frozen=True)
class TE(PerExample):
    """PGD-AT whose network stays, in loss and attack, near an average of its own clean predictions of earlier epochs.

        Z[i] <- alpha Z[i] + (1 - alpha) p(x)            evaluation mode, before the attack, from epoch `start` on
        Z'    = Z[i] / sum Z[i]                          Z starts at 0; no gradient
        x'    maximises, and the network minimises, CE(f(x'), y) + w/K ||p(x') - Z'||^2
        w     = weight exp(-5 (1 - t)^2),   t = (epoch - start)/ramp, at most 1

    Training forwards: adversarial. Before `start`, PGD-AT without a clean forward. Source: the authors' code (start 90
    and ramp 60 of 200 epochs, counted from 1).

    Attributes:
        attack: the inner maximisation.
        weight: w after the ramp.
        alpha: share of the old average.
        start: the average begins with epoch round(start * epochs), counted from 1.
        ramp: fraction of the run in which w grows.
    """

    attack: TrainingAttack = TrainingAttack(start="uniform_unclipped")
    weight: float = field(300.0, at_least(0), "of the distance to the average, after the ramp")
    alpha: float = field(0.9, between(0, 1), "share of the old average")
    start: float = field(0.45, between(0, 1), "fraction of the run at which the average begins")
    ramp: float = field(0.3, between(0, 1), "fraction of the run in which the weight grows")

    @property
    def weighable(self) -> bool:
        return True

    def init_state(self, labels: np.ndarray, num_classes: int) -> State:
        return State(per_example=jnp.zeros((len(labels), num_classes)))

    def phase(self, epoch: int, epochs: int) -> Hashable:
        return "ensemble" if reached(self.start, epoch, epochs) else "plain"

    def w(self, context: Context) -> jax.Array:
        """The weight of this epoch."""
        start, ramp = round(self.start * context.epochs), max(round(self.ramp * context.epochs), 1)
        grown = jnp.clip((context.epoch + 1.0 - start) / ramp, 0.0, 1.0)
        return self.weight * jnp.exp(-5.0 * (1.0 - grown) ** 2)

    def _values(self, w, logits, target, ensemble):
        away = jnp.sum((jax.nn.softmax(logits) - ensemble) ** 2, -1)
        return losses.cross_entropy(logits, target) + w / ensemble.shape[-1] * away, away

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        net, label = context.nets["model"], context.batch.label
        if context.phase == "plain":
            x_adv, net = self.attack(context, key, net, label)
            return (x_adv, context.state.per_example), {"model": net}
        p = jax.nn.softmax(net.logits_fn(context.batch.image))
        memory = self.alpha * context.state.per_example + (1.0 - self.alpha) * p
        w, target = self.w(context), (label, _normalised(memory))
        x_adv, net = self.attack(context, key, net, target, lambda z, target: self._values(w, z, *target)[0])
        return (x_adv, memory), {"model": net}

    def images(self, adversarial: Any) -> jax.Array:
        return adversarial[0]

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        x_adv, memory = adversarial
        robust, net = context.nets["model"].train(x_adv)
        return {"robust": robust, "ensemble": _normalised(memory)}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        robust = logits["robust"]
        if context.phase == "plain":
            return context.weighted(losses.cross_entropy(robust, target), robust), {}
        values, away = self._values(self.w(context), robust, target, logits["ensemble"])
        return context.weighted(values, robust), {"distance": context.metric(away)}

    def new_state(self, context: Context, adversarial: Any, logits: Mapping[str, jax.Array]) -> State | None:
        return State(context.state.shared, adversarial[1])

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        net = context.nets["model"].logits_fn
        ensemble = jax.nn.softmax(net(context.batch.image))
        return self._values(self.w(context), net(x_adv), context.batch.label, ensemble)[0]


def _normalised(memory: jax.Array) -> jax.Array:
    return memory / jnp.maximum(jnp.sum(memory, -1, keepdims=True), jnp.finfo(jnp.float32).tiny)
