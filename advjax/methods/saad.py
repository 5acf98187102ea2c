"""SAAD: Sample-wise Adaptive Adversarial Distillation (Lee and Chung, arXiv 2512.10275)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import distill, losses
from advjax.fields import above, at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards
from advjax.methods.distillation import Distillation, running_statistics_only


def linearised_divergence(
    logits: jax.Array,
    gradient: jax.Array,
    student: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    label: jax.Array,
    x_adv: jax.Array,
    aux: Any,
) -> tuple[jax.Array, Any]:
    """KL(softmax(z) || p_S(x')), z the teacher's logits with that of the label moved along its gradient; [B], aux."""
    moved = jnp.sum(gradient * (x_adv - x), (1, 2, 3))
    z = logits + moved[:, None] * jax.nn.one_hot(label, logits.shape[-1])
    return losses.kl(z, student(x_adv)), aux


@dataclasses.dataclass(frozen=True)
class SAAD(Distillation):
    """AdaAD and IGDM with the examples weighted by how uncertain the teacher is on them, that is, how far x' transfers.

        x'   = argmax KL(softmax(z) || p_S(x')),    z = T(x) but z_y += <grad_x T_y(x), x' - x>
        H_i  = Renyi entropy of p_T(x'_i),    w_i = scale (H_i - min H),    v_i = (w_i - min w)/(max w - min w + 1e-8)
        min mean of w_i [KL(p_T(x') || p_S(x')) + alpha (e/E) KL(softmax(T(x+d) - T(x-d)) || softmax(S(x+d) - S(x-d)))]
                    + beta (1 - v_i) KL(p_T(x) || p_S(x))

    d = x' - x, x - d not clipped; e is the epoch counted from 1, E their number; minima and maxima over the whole batch.
    The gradient of the attack flows through z as well; one backward of the teacher serves it all. Teacher and w have no
    gradient in the loss. Training forwards: adversarial, x - d, clean, whatever alpha and beta are (running = 0.729 old
    + 0.081 adversarial + 0.09 opposite + 0.10 clean).

    Source: the authors' code. The paper has w = H, v = H/log K and x in place of x - d. Their networks are averaged
    (SWA) over the last epochs, which is a wrapper of its own.

    Attributes:
        attack: the inner maximisation; an attack on batch statistics is refused.
        alpha: weight of the gradient matching at the end of the run; 1, on CIFAR-100 10 (20 in the paper).
        beta: weight of the clean images; 0.
        entropy_scale: scale.
        entropy_order: order of the Renyi entropy; 1 is Shannon's.
    """

    attack: TrainingAttack = TrainingAttack(start="normal")
    alpha: float = field(1.0, at_least(0), "weight of the gradient matching at the end of the run")
    beta: float = field(0.0, at_least(0), "weight of the clean images")
    entropy_scale: float = field(5.0, at_least(0), "factor from the teacher's entropy to an example's weight")
    entropy_order: float = field(1.0, above(0), "order of the Renyi entropy, 1: Shannon's")

    def __post_init__(self) -> None:
        super().__post_init__()
        running_statistics_only(self.attack)

    @property
    def divisible(self) -> bool:
        return False

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x, y = context.batch.image, context.batch.label
        teacher, student = (context.nets[name].logits_fn for name in ("robust_teacher", "student"))

        def own(x):
            logits = teacher(x)
            return jnp.sum(logits * jax.nn.one_hot(y, context.num_classes)), logits

        gradient, logits = jax.grad(own, has_aux=True)(x)
        objective = jax.tree_util.Partial(linearised_divergence, logits, gradient, student, x, y)
        return self.attack.craft(context, key, objective), {}

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        robust, student = context.nets["student"].train(x_adv)
        behind, student = student.train(2 * context.batch.image - x_adv)
        clean, student = student.train(context.batch.image)
        return {"robust": robust, "behind": behind, "clean": clean}, student

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        x, teacher = context.batch.image, context.nets["robust_teacher"].logits_fn
        soft = jax.lax.stop_gradient(teacher(x_adv))
        entropy = losses.renyi_entropy(soft, self.entropy_order)
        weight = self.entropy_scale * (entropy - context.extremes(entropy)[0])
        low, high = context.extremes(weight)
        matching = distill.gradient_matching(soft, teacher(2 * x - x_adv), logits["robust"], logits["behind"])
        robust = losses.kl(soft, logits["robust"])
        values = weight * (robust + self.alpha * (context.epoch + 1) / context.epochs * matching)
        terms = {"adv_loss": robust, "gradient_matching": matching, "teacher_entropy": entropy, "weight": weight}
        if self.beta:
            clean = losses.kl(jax.lax.stop_gradient(teacher(x)), logits["clean"])
            values += self.beta * (1 - (weight - low) / (high - low + 1e-8)) * clean
            terms["nat_loss"] = clean
        return values, {name: context.metric(term) for name, term in terms.items()}

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        teacher, student = (context.nets[name].logits_fn for name in ("robust_teacher", "student"))
        return losses.kl(teacher(x_adv), student(x_adv))


@dataclasses.dataclass(frozen=True)
class SAADC(SAAD):
    """SAAD-C: SAAD that also learns the clean images, the more the surer the teacher is (beta 0.5 off CIFAR-10)."""

    beta: float = field(0.2, at_least(0), "weight of the clean images")
