"""DM: adversarial training on data of a diffusion model (Wang et al. 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.fields import at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, ExampleLosses
from advjax.methods.trades import ORDERS, TRADES


@dataclasses.dataclass(frozen=True)
class DM(TRADES):
    """min CE(f(x), smooth y) + beta KL(p(x) || p(x')), x' maximising the KL on batch statistics that move no others.

    The first step replaces the running statistics, later ones move them by `share`. Training forwards: clean,
    adversarial. Source: the authors' code, who train on 70 % synthetic images and report the average of
    `dm_ema` (decay 0.995, warm-up, start 11/400, statistics of the network).

    Attributes:
        attack: the inner maximisation.
        beta: weight of the KL.
        order: see `TRADES`.
        label_smoothing: share of the label's mass that is spread over all classes.
        share: of a batch in the running statistics, after the first step.
    """

    attack: TrainingAttack = TrainingAttack(statistics="frozen")
    beta: float = field(5.0, at_least(0), "weight of the KL")
    order: str = field("clean-adv", ORDERS, "of the forwards")
    label_smoothing: float = field(0.1, between(0, 1), "share of the label's mass spread over all classes")
    share: float = field(0.01, between(0, 1), "of a batch in the running statistics, after the first step")

    def momentum(self, context: Context) -> jax.Array | None:
        return jnp.where(jnp.asarray(context.step) == 0, 0.0, 1.0 - self.share)

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        target = losses.smooth_labels(target, context.num_classes, self.label_smoothing)
        return super().example_losses(context, logits, target)
