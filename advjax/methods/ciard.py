"""CIARD: Cyclic Iterative Adversarial Robustness Distillation (ICCV 2025)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import distill, losses
from advjax.fields import above, above_up_to, at_least, at_least_below, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method, State, accuracy


def magnitude(value: jax.Array) -> jax.Array:
    """floor(log10 |value|), that of 1e-7 for less."""
    return jnp.floor(jnp.log10(jnp.maximum(jnp.abs(value), 1e-7)))


@dataclasses.dataclass(frozen=True)
class CIARD(Method):
    """A student between a clean and a robust teacher, away from the clean one where x' misleads it; the robust teacher
    keeps learning, from the student's adversarial examples.

        x' = argmax CE(S(x'), y)
        L_adv  = 1/C KL~(R(x')/tau_adv || S(x')),    L_nat = 1/C KL~(N(x)/tau_nat || S(x))
        L_push = 1/C KL~(N(x')/5 || S(x')/5)            mean over the images where N(x') is wrong
        s      = 10^(min(m(L_adv), m(L_nat)) - m(L_push)),    m = floor(log10)
        min L_adv + L_nat - s L_push                    over S, no gradient through R, N and s
        min CE(R(x'), y)                                over R, after `teacher_begin`

    KL~ is `advjax.distill.floored_kl`, element means; the temperatures tau, of the teachers alone, move as B-MTARD's do
    (`advjax.distill.balance_temperatures`). Training forwards of S and of R: clean, adversarial; R is in training mode
    throughout, its statistics move from the first step on. N is frozen and in evaluation mode.

    R steps by SGD with `teacher_momentum` and the rate teacher_rate (1 + cos(pi u))/2 exp(-0.01 u^2), u from 0 to 1
    after `teacher_begin`, 0 before.

    Source: the authors' code. Our reconstruction: their code drops the temperatures' rate in every step of three
    epochs; here it drops once at each, as B-MTARD's. Their attack sees the statistics that the step's clean forward has
    already moved, ours those before it.

    Attributes:
        attack: the inner maximisation, on the student alone.
        push_temperature: 5, of both sides of L_push.
        temperature_rate: how far a temperature moves in a step.
        milestones: fractions of the run after which that rate drops to a tenth.
        teacher_rate: the robust teacher's first learning rate.
        teacher_momentum: its momentum.
        teacher_weight_decay: its weight decay.
        teacher_begin: fraction of the run after which it learns.
    """

    attack: TrainingAttack = TrainingAttack(start="normal")
    push_temperature: float = field(5.0, above(0), "of student and clean teacher where that is wrong")
    temperature_rate: float = field(0.001, at_least(0), "how far a temperature moves in a step")
    milestones: tuple[float, ...] = field(
        (215 / 300, 260 / 300, 285 / 300), above_up_to(0, 1), "fractions of the run after which that rate drops"
    )
    teacher_rate: float = field(1e-4, at_least(0), "the robust teacher's first learning rate")
    teacher_momentum: float = field(0.1, at_least_below(0, 1), "the robust teacher's momentum")
    teacher_weight_decay: float = field(2e-4, at_least(0), "the robust teacher's weight decay")
    teacher_begin: float = field(50 / 300, at_least_below(0, 1), "fraction of the run after which it learns")

    @property
    def trained(self) -> tuple[str, ...]:
        return ("student", "robust_teacher")

    @property
    def pretrained(self) -> tuple[str, ...]:
        return ("robust_teacher",)

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("clean_teacher",)

    @property
    def evaluated(self) -> tuple[str, ...]:
        return ("student",)

    def init_state(self, labels: np.ndarray, num_classes: int) -> State:
        del labels, num_classes
        return State(shared=jnp.ones(2))

    def phase(self, epoch: int, epochs: int) -> Hashable:
        return "cyclic" if epoch >= round(self.teacher_begin * epochs) else "resting"

    def optimizer(
        self, name: str, default: optax.GradientTransformation, epoch: Any, epochs: int
    ) -> optax.GradientTransformation:
        if name != "robust_teacher":
            return default
        begin = round(self.teacher_begin * epochs)
        u = (epoch + 1 - begin) / max(epochs - begin, 1)
        rate = self.teacher_rate * (1 + jnp.cos(jnp.pi * u)) / 2 * jnp.exp(-0.01 * u**2)
        return optax.chain(
            optax.add_decayed_weights(self.teacher_weight_decay),
            optax.sgd(jnp.where(epoch >= begin, rate, 0.0), self.teacher_momentum or None),
        )

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x_adv, student = self.attack(context, key, context.nets["student"], context.batch.label)
        return x_adv, {"student": student}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        x_adv, x, y, nets, tau = (
            adversarial,
            context.batch.image,
            context.batch.label,
            context.nets,
            context.state.shared,
        )
        clean, student = nets["student"].train(x)
        _, teacher = nets["robust_teacher"].train(x)
        robust, student = student.train(x_adv)
        r_adv, teacher = teacher.train(x_adv)
        n_nat, n_adv = (nets["clean_teacher"].logits_fn(each) for each in (x, x_adv))

        adv, nat = (
            context.mean(distill.floored_kl(t, z, tau[k])) / context.num_classes
            for k, (t, z) in enumerate(((r_adv, robust), (n_nat, clean)))
        )
        wrong = 1 - losses.correct(n_adv, y)
        away = distill.floored_kl(n_adv, robust / self.push_temperature, self.push_temperature)
        share = context.mean(wrong)
        push = context.mean(away, wrong) / jnp.maximum(share, 1e-6) / context.num_classes
        scale = 10 ** (jnp.minimum(magnitude(adv), magnitude(nat)) - magnitude(push))
        loss = adv + nat - jax.lax.stop_gradient(scale) * push

        entropies = jnp.stack([context.mean(losses.entropy(t, tau[k])) for k, t in enumerate((r_adv, n_nat))])
        rate = distill.dropped(self.temperature_rate, context.epoch, context.epochs, self.milestones)
        state = jax.lax.stop_gradient(distill.balance_temperatures(tau, entropies, rate))
        terms = {"adv_loss": adv, "nat_loss": nat, "push": push, "misled": share}
        terms |= {"adv_temperature": tau[0], "nat_temperature": tau[1]}
        if context.phase == "cyclic":
            terms["teacher_loss"] = context.mean(losses.cross_entropy(r_adv, y))
            loss += terms["teacher_loss"]
        metrics = {name: context.metric(term) for name, term in terms.items()}
        metrics |= accuracy(context, clean=clean, robust=robust)
        nets = {"student": student, "robust_teacher": teacher}
        return loss, Aux(nets, context.state._replace(shared=state), metrics)
