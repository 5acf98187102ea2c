"""PGD-AT (Madry et al. 2018, as Rice et al. 2020 run it) and FGSM-RS (Wong et al. 2020)."""

from __future__ import annotations

import dataclasses

from advjax import losses
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Method, accuracy


@dataclasses.dataclass(frozen=True)
class PGDAT(Method):
    """min CE(f(x'), y) with x' maximising CE(f(x'), y).

    Training forwards: adversarial; then, at the updated weights and without gradient, clean, which moves the BatchNorm
    statistics once more (Rice et al.'s code measures its training accuracy so).

    Attributes:
        attack: the inner maximisation.
        label_smoothing: share of the label's mass that is spread over all classes (AT with label smoothing: 0.1).
        clean_statistics: whether the clean forward after the step happens.
    """

    attack: TrainingAttack = TrainingAttack()
    label_smoothing: float = 0.0
    clean_statistics: bool = True

    def perturb(self, context, key):
        x_adv, net = self.attack(context, key, context.nets["model"], context.batch.label)
        return x_adv, net.stats

    def loss(self, context, crafted, key):
        (x_adv, stats), y = crafted, context.batch.label
        logits, net = context.nets["model"].with_stats(stats).train(x_adv)
        target = losses.smooth_labels(y, context.num_classes, self.label_smoothing) if self.label_smoothing else y
        loss = context.mean(losses.cross_entropy(logits, target))
        return loss, Aux({"model": net.stats}, metrics=accuracy(context, robust=logits))

    def settle(self, context, crafted):
        if not self.clean_statistics:
            return {}
        return {"model": context.nets["model"].train(context.batch.image)[1]}


@dataclasses.dataclass(frozen=True)
class FGSMRS(PGDAT):
    """FGSM-RS: PGD-AT with one step of 1.25 eps from a uniform start. Training forwards: adversarial only."""

    clean_statistics: bool = False
