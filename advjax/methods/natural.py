"""Natural training: cross-entropy on clean images."""

from __future__ import annotations

import dataclasses

from advjax import losses
from advjax.methods.base import Aux, Method, accuracy


@dataclasses.dataclass(frozen=True)
class Natural(Method):
    """min CE(f(x), y). Training forwards: clean.

    Attributes:
        label_smoothing: share of the label's mass that is spread over all classes.
    """

    label_smoothing: float = 0.0

    @property
    def best_by(self):
        # Under attack a natural network is best when it has learnt least.
        return "clean"

    def loss(self, context, crafted, key):
        x, y = context.batch.image, context.batch.label
        logits, net = context.nets["model"].train(x)
        target = losses.smooth_labels(y, context.num_classes, self.label_smoothing) if self.label_smoothing else y
        loss = context.mean(losses.cross_entropy(logits, target))
        return loss, Aux({"model": net.stats}, metrics=accuracy(context, clean=logits))
