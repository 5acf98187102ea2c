"""HAT: helper-based adversarial training (Rade & Moosavi-Dezfooli 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.fields import at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, ExampleLosses, Forwards
from advjax.methods.trades import ORDERS, TRADES


@dataclasses.dataclass(frozen=True)
class HAT(TRADES):
    """TRADES + gamma CE(f(x + 2 (x' - x)), argmax h(x')): what lies behind x' is what a natural network sees in x'.

    h, the network `helper`, has the student's architecture, is trained naturally beforehand, frozen and in evaluation
    mode. The helper image is not clipped. Training forwards: clean, adversarial, helper image. Source: the authors'
    code.

    Attributes:
        attack: the inner maximisation, TRADES's.
        beta: weight of the KL.
        order: TRADES's of the forwards before the helper image's.
        gamma: weight of the helper's cross-entropy.
    """

    attack: TrainingAttack = TrainingAttack(start="normal")
    beta: float = field(2.5, at_least(0), "weight of the KL")
    order: str = field("clean-adv", ORDERS, "of TRADES's forwards")
    gamma: float = field(0.5, at_least(0), "weight of the cross-entropy of the helper image")

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("helper",)

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        logits, net = super().forwards(context, adversarial)
        x = context.batch.image
        behind, net = net.train(x + 2.0 * (adversarial - x))
        return {**logits, "behind": behind, "helper": context.nets["helper"].logits_fn(adversarial)}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        values, metrics = super().example_losses(context, logits, target)
        helper = losses.cross_entropy(logits["behind"], jnp.argmax(logits["helper"], -1))
        return values + self.gamma * helper, {**metrics, "helper_loss": context.metric(helper)}
