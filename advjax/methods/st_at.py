"""ST-AT: squeeze training (Li et al. 2023), with collaborative beside adversarial examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import losses, threat
from advjax.errors import InputError
from advjax.fields import at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, PerExample


def extremes(points: jax.Array, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of several points of each image those with the least and with the greatest p_y.

    Args:
        points: what is chosen from, [P, B, ...].
        logits: at the points, [P, B, K].
        label: [B].
    """
    p = jnp.take_along_axis(jax.nn.softmax(logits), label[None, :, None], -1)[..., 0]
    rows = jnp.arange(len(label))
    return points[jnp.argmin(p, 0), rows], points[jnp.argmax(p, 0), rows]


def squeeze(up: jax.Array, low: jax.Array) -> jax.Array:
    """S = (KL(sg low || up) + KL(sg up || low))/2 of logits [B, K]; -> [B]."""
    stopped = jax.lax.stop_gradient
    return 0.5 * (losses.kl(stopped(low), up) + losses.kl(stopped(up), low))


@dataclasses.dataclass(frozen=True)
class STAT(PerExample):
    """min CE(f(x), y) + beta S: the ball around x is squeezed between the points of least and of greatest p_y.

        up, low = of x, x_col and x' the point with the least and with the greatest p_y, per image and step
        x'      = P(up + step sign(dS/dup)),    x_col = P(low + step sign(dS/dlow))
        S       = (KL(sg p(low) || p(up)) + KL(sg p(up) || p(low)))/2

    In the loss up and low are chosen anew. Training forwards: clean, adversarial; that of x_col moves no statistics,
    nor do those of the attack, which are in training mode. Source: the authors' code, but for beta, which is not in it
    [ours: 6].

    Attributes:
        attack: the inner maximisation; x' and x_col start from noise of their own.
        beta: weight of S.
    """

    attack: TrainingAttack = TrainingAttack(start="normal", statistics="frozen")
    beta: float = field(6.0, at_least(0), "weight of the squeeze term")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack.statistics == "batch" or self.attack.norm == "l1":
            raise InputError("must be linf or l2 on frozen or running statistics for ST-AT", "attack")

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        attack, net, (x, label) = self.attack, context.nets["model"], context.batch[:2]
        starts = [attack.start_of(context, jax.random.fold_in(key, purpose)) for purpose in range(2)]
        weight, (eps, step_size) = context.batch.weight, attack.budget(context)

        def total(points):
            # Three forwards, not one of them all: BatchNorm normalises over each kind of point alone.
            logits = jnp.stack([attack.logits(net, each) for each in points])
            up, low = extremes(logits, logits, label)
            return jnp.sum(squeeze(up, low) * weight), logits

        def step(_, points):
            gradient, logits = jax.grad(total, has_aux=True)(points)
            moved = []
            for point, slope in zip(extremes(points, logits, label), extremes(gradient, logits, label), strict=True):
                away = point + step_size * threat.steepest_step(slope, attack.norm)
                moved.append(threat.project(away, x, attack.norm, eps))
            return jnp.stack([x, *moved])

        points = jax.lax.fori_loop(0, attack.steps, step, jnp.stack([x, *starts]))
        return {"adversarial": points[1], "collaborative": points[2]}, {}

    def images(self, adversarial: Any) -> jax.Array:
        return adversarial["adversarial"]

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        clean, net = context.nets["model"].train(context.batch.image)
        robust, net = net.train(adversarial["adversarial"])
        collaborative, _ = net.train(adversarial["collaborative"])
        return {"clean": clean, "robust": robust, "collaborative": collaborative}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        natural = losses.cross_entropy(logits["clean"], target)
        points = jnp.stack([logits["clean"], logits["robust"], logits["collaborative"]])
        gap = squeeze(*extremes(points, points, context.batch.label))
        return natural + self.beta * gap, {"natural_loss": context.metric(natural), "squeeze": context.metric(gap)}

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        return super().adaptive_loss(context, network, {"adversarial": x_adv, "collaborative": context.batch.image})
