"""AdaAD: Adaptive Adversarial Distillation (Huang et al., CVPR 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from advjax import losses
from advjax.fields import between, field, one_of
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards
from advjax.methods.distillation import Distillation, running_statistics_only


def _divergence(teacher, student, x_adv, aux):
    return losses.kl(teacher(x_adv), student(x_adv)), aux


@dataclasses.dataclass(frozen=True)
class AdaAD(Distillation):
    """The attack looks for where student and teacher differ most, and the student learns the teacher there.

        x' = argmax KL(p_T(x') || p_S(x'))              gradient through the teacher as well
        min alpha KL(p_T(x') || p_S(x')) + (1 - alpha) KL(p_T(x) || p_S(x))

    y serves nothing. Both networks are attacked in evaluation mode; the loss gives the teacher no gradient. Training
    forwards: clean, then adversarial, at alpha 1 as well (running = 0.81 old + 0.09 clean + 0.10 adversarial).

    Source: the authors' code, whose KL is a mean over B and C on CIFAR-10, over B on CIFAR-100.

    Attributes:
        attack: the inner maximisation; an attack on batch statistics is refused.
        alpha: weight of the loss on x'.
        reduction: `"elements"`: the KL is a mean over B and C; `"batch"`: over B.
        clean_statistics: whether the clean forward happens where it has no weight; not in the code of IGDM.
    """

    attack: TrainingAttack = TrainingAttack(start="normal")
    alpha: float = field(1.0, between(0, 1), "weight of the loss on x', the rest is that of x")
    reduction: str = field("elements", one_of("elements", "batch", kind="reduction"), "what the KL is a mean over")
    clean_statistics: bool = field(True, help="move the student's statistics on clean images at alpha 1, too")

    def __post_init__(self) -> None:
        super().__post_init__()
        running_statistics_only(self.attack)

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        networks = (context.nets[name].logits_fn for name in ("robust_teacher", "student"))
        return self.attack.craft(context, key, jax.tree_util.Partial(_divergence, *networks)), {}

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        student, logits = context.nets["student"], {}
        if self.alpha < 1 or self.clean_statistics:
            logits["clean"], student = student.train(context.batch.image)
        logits["robust"], student = student.train(x_adv)
        return logits, student

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        teacher = context.nets["robust_teacher"].logits_fn
        share = 1 / context.num_classes if self.reduction == "elements" else 1.0
        robust = share * losses.kl(jax.lax.stop_gradient(teacher(x_adv)), logits["robust"])
        values, metrics = self.alpha * robust, {"adv_loss": context.metric(robust)}
        if self.alpha < 1:
            clean = share * losses.kl(jax.lax.stop_gradient(teacher(context.batch.image)), logits["clean"])
            values += (1 - self.alpha) * clean
            metrics["nat_loss"] = context.metric(clean)
        return values, metrics

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        teacher, student = (context.nets[name].logits_fn for name in ("robust_teacher", "student"))
        return losses.kl(teacher(x_adv), student(x_adv))
