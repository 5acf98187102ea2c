"""IAD: Introspective Adversarial Distillation (Zhu et al., arXiv 2106.04928, ICLR 2022), with one and two teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.fields import above, at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, ExampleLosses, Forwards
from advjax.methods.distillation import Distillation, shares_of_one


@dataclasses.dataclass(frozen=True)
class Introspective(Distillation):
    """What both have in common: x' = argmax CE(S(x'), y), and how far the student trusts the robust teacher.

    Attributes:
        attack: the inner maximisation, on the student alone.
        temperature: T, of teachers and student.
        beta: exponent of the trust.
        begin: fraction of the run after which the student also learns from itself.
    """

    attack: TrainingAttack = TrainingAttack(start="uniform_unclipped")
    temperature: float = field(1.0, above(0), "of teachers and student")
    beta: float = field(0.1, at_least(0), "exponent of the trust in the teacher")
    begin: float = field(0.3, between(0, 1), "fraction of the run after which the student learns from itself, too")

    def phase(self, epoch: int, epochs: int) -> Hashable:
        return "introspective" if epoch >= round(self.begin * epochs) else "plain"

    def trust(self, context: Context, x_adv: jax.Array) -> jax.Array:
        """A = p_T(y | x')^beta, no gradient; [B]."""
        teacher = context.nets["robust_teacher"].logits_fn(x_adv)
        return jax.lax.stop_gradient(jnp.exp(-self.beta * losses.cross_entropy(teacher, context.batch.label)))


@dataclasses.dataclass(frozen=True)
class IADI(Introspective):
    """IAD-I: ARD whose student, where the teacher fails on x', listens to its own clean prediction instead.

        x' = argmax CE(S(x'), y),    A = p_T(y | x')^beta
        min alpha [T^2 KL(softmax(T(x)/T) || softmax(S(x')/T)) + (1 - A) KL(p_S(x) || p_S(x'))]
            + (1 - alpha) CE(S(x), y)

    Batch means. The second KL comes in after `begin`; its gradient flows through both predictions of the student, and A
    does not weight the first. Training forwards: adversarial twice, the second for the statistics alone; clean once,
    after `begin` twice (running = 0.729 old + 0.171 adversarial + 0.1 clean, then 0.6561, 0.1539, 0.19).

    Source: the authors' code, whose attack moves the statistics (`statistics="batch"` in the config of their recipe).

    Attributes:
        attack: the inner maximisation, on the student alone.
        temperature: T, of teacher and student.
        beta: exponent of the trust.
        begin: fraction of the run after which the student also learns from itself; 60 of 200 epochs.
        alpha: weight of the distillation.
    """

    alpha: float = field(1.0, between(0, 1), "weight of the distillation, the rest is the cross-entropy's")

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        x = context.batch.image
        robust, student = context.nets["student"].train(x_adv)
        _, student = student.train(x_adv, reuse_logits=robust)
        clean, student = student.train(x)
        labelled = clean
        if context.phase == "introspective":
            labelled, student = student.train(x, reuse_logits=clean)
        return {"robust": robust, "clean": clean, "labelled": labelled}, student

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        teacher = context.nets["robust_teacher"].logits_fn(context.batch.image)
        natural = losses.cross_entropy(logits["labelled"], context.batch.label)
        distilled = self.temperature**2 * losses.kl(teacher, logits["robust"], self.temperature)
        metrics = {"distillation": context.metric(distilled), "natural_loss": context.metric(natural)}
        if context.phase == "introspective":
            trust = self.trust(context, x_adv)
            distilled += (1 - trust) * losses.kl(logits["clean"], logits["robust"])
            metrics["trust"] = context.metric(trust)
        return self.alpha * distilled + (1 - self.alpha) * natural, metrics


@dataclasses.dataclass(frozen=True)
class IADII(Introspective):
    """IAD-II: a robust and a clean teacher, both asked about x', and the student's own clean prediction.

        x' = argmax CE(S(x'), y),    A = p_robust(y | x')^beta
        min (1 - alpha1 - alpha2) CE(S(x'), y)
            + alpha1 T^2 [A KL(robust(x') || S(x')) + (1 - A) KL(S(x) || S(x'))] + alpha2 T^2 KL(clean(x') || S(x'))

    Batch means; T divides the logits of the teachers' KLs, and the gradient of the student's own flows through both of
    its predictions. Before `begin` A is 1 and the student's own KL absent. Training forwards: adversarial; then, after
    `begin`, clean (running = 0.81 old + 0.09 adversarial + 0.10 clean).

    Source: the authors' code, whose attack moves the statistics (`statistics="batch"` in the config of their recipe).

    Attributes:
        attack: the inner maximisation, on the student alone.
        temperature: T, of teachers and student.
        beta: exponent of the trust.
        begin: fraction of the run after which the student also learns from itself; 40 of 200 epochs.
        alpha1: weight of what the robust teacher and the student itself say.
        alpha2: weight of what the clean teacher says.
    """

    begin: float = field(0.2, between(0, 1), "fraction of the run after which the student learns from itself, too")
    alpha1: float = field(0.5, between(0, 1), "weight of what the robust teacher and the student itself say")
    alpha2: float = field(0.25, between(0, 1), "weight of what the clean teacher says")

    def __post_init__(self) -> None:
        super().__post_init__()
        shares_of_one(self, "alpha1", "alpha2")

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("clean_teacher", "robust_teacher")

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        robust, student = context.nets["student"].train(x_adv)
        if context.phase == "plain":
            return {"robust": robust}, student
        clean, student = student.train(context.batch.image)
        return {"robust": robust, "clean": clean}, student

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        robust, clean = (
            losses.kl(context.nets[name].logits_fn(x_adv), logits["robust"], self.temperature)
            for name in ("robust_teacher", "clean_teacher")
        )
        label = losses.cross_entropy(logits["robust"], context.batch.label)
        metrics = {"label_loss": context.metric(label), "robust_kl": context.metric(robust)}
        metrics["clean_kl"] = context.metric(clean)
        if context.phase == "introspective":
            trust = self.trust(context, x_adv)
            robust = trust * robust + (1 - trust) * losses.kl(logits["clean"], logits["robust"])
            metrics["trust"] = context.metric(trust)
        distilled = self.temperature**2 * (self.alpha1 * robust + self.alpha2 * clean)
        return (1 - self.alpha1 - self.alpha2) * label + distilled, metrics
