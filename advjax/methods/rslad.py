"""RSLAD: Robust Soft Label Adversarial Distillation (Zi et al., arXiv 2108.07969, ICCV 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from advjax import distill
from advjax.fields import at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards
from advjax.methods.distillation import Distillation


@dataclasses.dataclass(frozen=True)
class RSLAD(Distillation):
    """A robust teacher's soft labels of the clean images replace the hard ones everywhere, in the attack, too.

        x' = argmax KL(p_T(x) || p_S(x'))
        min scale/C [w KL~(p_T(x) || p_S(x')) + (1 - w) KL~(p_T(x) || p_S(x))]

    KL~ has 1e-5 inside the logarithm of the teacher's probabilities (`advjax.distill.floored_kl`) and is a mean over B
    and C. The teacher never sees x', and y serves nothing. Training forwards: adversarial, then clean.

    Source: the authors' code.

    Attributes:
        attack: the inner maximisation, on the student alone.
        adversarial_weight: w.
        scale: factor of the loss; 1 for CIFAR-10, 10 for CIFAR-100.
    """

    attack: TrainingAttack = TrainingAttack(start="normal")
    adversarial_weight: float = field(5 / 6, between(0, 1), "weight of the loss on x', the rest is that of x")
    scale: float = field(1.0, at_least(0), "factor of the loss")

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        soft = jax.nn.softmax(context.nets["robust_teacher"].logits_fn(context.batch.image))
        x_adv, student = self.attack(context, key, context.nets["student"], soft, "kl")
        return x_adv, {"student": student}

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        robust, student = context.nets["student"].train(x_adv)
        clean, student = student.train(context.batch.image)
        return {"robust": robust, "clean": clean}, student

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        teacher = context.nets["robust_teacher"].logits_fn(context.batch.image)
        robust, clean = (
            self.scale / context.num_classes * distill.floored_kl(teacher, logits[name]) for name in ("robust", "clean")
        )
        values = self.adversarial_weight * robust + (1 - self.adversarial_weight) * clean
        return values, {"adv_loss": context.metric(robust), "nat_loss": context.metric(clean)}
