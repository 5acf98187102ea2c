"""Natural training: cross-entropy on clean images."""

from __future__ import annotations

import dataclasses

from advjax import losses
from advjax.fields import between, field
from advjax.methods.base import PerExample


@dataclasses.dataclass(frozen=True)
class Natural(PerExample):
    """min CE(f(x), y). Training forwards: clean.

    Attributes:
        label_smoothing: share of the label's mass that is spread over all classes.
    """

    label_smoothing: float = field(0.0, between(0, 1), "share of the label's mass spread over all classes")

    @property
    def best_by(self):
        # Under attack a natural network is best when it has learnt least.
        return "clean"

    def forwards(self, context, adversarial):
        clean, net = context.nets["model"].train(context.batch.image)
        return {"clean": clean}, net

    def example_losses(self, context, logits, target):
        return losses.cross_entropy(
            logits["clean"], losses.smooth_labels(target, context.num_classes, self.label_smoothing)
        ), {}
