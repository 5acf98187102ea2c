"""PGD-AT (Madry et al. 2018, as Rice et al. 2020 run it) and FGSM-RS (Wong et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from advjax import losses
from advjax.fields import between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, Network, PerExample


@dataclasses.dataclass(frozen=True)
class PGDAT(PerExample):
    """min CE(f(x'), y) with x' maximising CE(f(x'), y).

    Training forwards: adversarial; then, at the updated weights and without gradient, clean, which moves the BatchNorm
    statistics once more (Rice et al.'s code measures its training accuracy so).

    Attributes:
        attack: the inner maximisation.
        label_smoothing: share of the label's mass that is spread over all classes (AT with label smoothing: 0.1).
        clean_statistics: whether the clean forward after the step happens.
    """

    attack: TrainingAttack = TrainingAttack()
    label_smoothing: float = field(0.0, between(0, 1), "share of the label's mass spread over all classes")
    clean_statistics: bool = field(True, help="move the statistics on clean images after each step")

    @property
    def weighable(self) -> bool:
        return True

    @property
    def soft_labels(self) -> bool:
        return True

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x_adv, net = self.attack(context, key, context.nets["model"], context.target)
        return x_adv, {"model": net}

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        robust, net = context.nets["model"].train(adversarial)
        return {"robust": robust}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        robust = logits["robust"]
        target = losses.smooth_labels(target, context.num_classes, self.label_smoothing)
        return context.weighted(losses.cross_entropy(robust, target), robust), {}

    def after_update(self, context: Context, adversarial: Any) -> Mapping[str, Network]:
        if not self.clean_statistics:
            return {}
        return {"model": context.nets["model"].train(context.batch.image)[1]}

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        return None  # a cross-entropy


@dataclasses.dataclass(frozen=True)
class FGSMRS(PGDAT):
    """FGSM-RS: PGD-AT with one step of 1.25 eps from a uniform start. Training forwards: adversarial only."""

    attack: TrainingAttack = TrainingAttack(steps=1, step_size="10/255")
    clean_statistics: bool = field(False, help="move the statistics on clean images after each step")
