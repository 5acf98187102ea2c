"""The inner maximisation of a training step, as one setting that all methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advjax import fields, losses, threat
from advjax.attacks.pgd import maximize
from advjax.fields import Number, at_least, between, field, one_of
from advjax.methods.base import Context, Network
from advjax.numbers import number


@dataclasses.dataclass(frozen=True)
class TrainingAttack:
    """PGD as a training step runs it.

    Attributes:
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius; a number or a fraction such as `"8/255"`.
        steps: number of gradients.
        step_size: length of a step, a number or a fraction.
        start: see `advjax.threat.random_start`.
        statistics: `"running"`: the network is attacked in evaluation mode, the saner default; `"batch"`: on batch
            statistics, and every forward of the attack moves the running ones, as the code of PGD-AT, FGSM-RS, ARD and
            KD+SWA does; `"frozen"`: on batch statistics, the running ones at rest (DM, ST-AT).
        warmup: fraction of the run in which radius and step grow linearly to the whole, an epoch at a time; 0: neither.
    """

    norm: str = field("linf", help="norm of the threat model: linf, l2 or l1")
    eps: Number = field("8/255", at_least(0), "radius, a number or a fraction such as 8/255")
    steps: int = field(10, at_least(0), "gradients of the inner maximisation")
    step_size: Number = field("2/255", at_least(0), "length of a step, a number or a fraction")
    start: str = field("uniform", one_of(*threat.STARTS, kind="start"), "where the inner maximisation starts")
    statistics: str = field(
        "running",
        one_of("running", "batch", "frozen", kind="kind of statistics"),
        "of BatchNorm, on which the network is attacked",
    )
    warmup: float = field(0.0, between(0, 1), "fraction of the run in which radius and step grow, an epoch at a time")

    def __post_init__(self) -> None:
        fields.check(self)
        object.__setattr__(self, "norm", threat.canonical_norm(self.norm))

    def __call__(
        self,
        context: Context,
        key: jax.Array,
        net: Network,
        target: Any,
        objective: str | losses.Objective = "ce",
    ) -> tuple[jax.Array, Network]:
        """Adversarial examples of the batch for `net`.

        Args:
            context: the step's context.
            key: random key.
            net: the network attacked.
            target: labels [B] or what the objective takes.
            objective: name or function `(logits, target) -> [B]`.

        Returns:
            Images [B, H, W, C], and the network, whose statistics have moved if `statistics` is `"batch"`; where the
            context counts, with how often an example was classified correctly.
        """
        loss, label = losses.objective(objective), context.batch.label

        moves = self.statistics == "batch"

        def on_network(x_adv, carry):
            stats, survived = carry
            if self.statistics == "running":
                logits, weight = net.logits_fn(x_adv), jnp.ones(())
            else:
                # Padding must not pull on the batch statistics that the others are attacked on.
                (logits, moved), weight = (net.with_stats(stats) if moves else net).train(x_adv), context.batch.weight
                stats = moved.stats if moves else stats
            if context.counting:
                survived += losses.correct(logits, label)
            return loss(logits, target) * weight, (stats, survived)

        carry = (net.stats if moves else None, jnp.zeros(len(label)) if context.counting else None)
        x_adv, (stats, survived) = self._maximize(context, key, on_network, carry)
        return x_adv, dataclasses.replace(net, stats=stats if moves else net.stats, survived=survived)

    def logits(self, net: Network, x: jax.Array) -> jax.Array:
        """What an attack that moves no statistics sees of a network: logits [B, K] on running or batch statistics."""
        return net.train(x)[0] if self.statistics == "frozen" else net.logits_fn(x)

    def budget(self, context: Context) -> tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]:
        """Radius and length of a step in this epoch: numbers, or traced where they grow."""
        eps, step_size = number(self.eps), number(self.step_size)
        if not self.warmup:
            return eps, step_size
        share = jnp.minimum((context.epoch + 1.0) / (self.warmup * context.epochs), 1.0)
        return eps * share, step_size * share

    def craft(self, context: Context, key: jax.Array, objective: Callable) -> jax.Array:
        """Examples that maximise any objective `(x', aux) -> ([B], aux)` (see `advjax.attacks.maximize`)."""
        return self._maximize(context, key, objective, ())[0]

    def start_of(self, context: Context, key: jax.Array) -> jax.Array:
        """Where the attack takes its first gradient, [B, H, W, C]."""
        eps, _ = self.budget(context)
        key, x, ids = jax.random.fold_in(key, 0), context.batch.image, context.batch.id
        return threat.random_start(key, x, ids, self.norm, eps, self.start)

    def _maximize(self, context, key, objective, aux):
        eps, step_size = self.budget(context)
        return maximize(
            objective,
            context.batch.image,
            self.start_of(context, key),
            norm=self.norm,
            eps=eps,
            step_size=step_size,
            steps=self.steps,
            key=jax.random.fold_in(key, 1),
            ids=context.batch.id,
            aux=aux,
        )
