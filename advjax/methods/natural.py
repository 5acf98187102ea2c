"""Natural training: cross-entropy on clean images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from advjax import losses
from advjax.fields import between, field
from advjax.methods.base import Context, ExampleLosses, Forwards, PerExample


@dataclasses.dataclass(frozen=True)
class Natural(PerExample):
    """min CE(f(x), y). Training forwards: clean.

    Attributes:
        label_smoothing: share of the label's mass that is spread over all classes.
    """

    label_smoothing: float = field(0.0, between(0, 1), "share of the label's mass spread over all classes")

    @property
    def best_by(self) -> str:
        # Under attack a natural network is best when it has learnt least.
        return "clean"

    @property
    def soft_labels(self) -> bool:
        return True

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        clean, net = context.nets["model"].train(context.batch.image)
        return {"clean": clean}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        return losses.cross_entropy(
            logits["clean"], losses.smooth_labels(target, context.num_classes, self.label_smoothing)
        ), {}

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        return None  # a cross-entropy
