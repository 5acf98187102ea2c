"""ARD: Adversarially Robust Distillation (Goldblum et al., arXiv 1905.09747, AAAI 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from advjax import losses
from advjax.fields import above, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, ExampleLosses, Forwards
from advjax.methods.distillation import Distillation


@dataclasses.dataclass(frozen=True)
class ARD(Distillation):
    """A student answers adversarial images as a robust teacher answers the clean ones.

        x' = argmax CE(S(x'), y)
        min alpha T^2/C KL(softmax(T(x)/T) || softmax(S(x')/T)) + (1 - alpha) CE(S(x), y)

    The KL is a mean over B and C; the teacher T never sees x'. Training forwards: adversarial, then clean, which at
    alpha 1 only moves the statistics (running = 0.81 old + 0.09 adversarial + 0.10 clean).

    Source: the authors' code. Their attack runs on batch statistics, which its forwards move: `statistics="batch"` of
    the attack, set in the config of their recipe.

    Attributes:
        attack: the inner maximisation, on the student alone.
        alpha: weight of the distillation; 0 is natural training.
        temperature: T, of teacher and student.
    """

    attack: TrainingAttack = TrainingAttack(start="uniform_unclipped")
    alpha: float = field(1.0, between(0, 1), "weight of the distillation, the rest is the cross-entropy's")
    temperature: float = field(30.0, above(0), "of teacher and student")

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        robust, student = context.nets["student"].train(x_adv)
        clean, student = student.train(context.batch.image)
        return {"robust": robust, "clean": clean}, student

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        teacher = context.nets["robust_teacher"].logits_fn(context.batch.image)
        kl = losses.kl(teacher, logits["robust"], self.temperature)
        natural = losses.cross_entropy(logits["clean"], context.batch.label)
        distilled = self.temperature**2 / context.num_classes * kl
        metrics = {"distillation": context.metric(distilled), "natural_loss": context.metric(natural)}
        return self.alpha * distilled + (1 - self.alpha) * natural, metrics
