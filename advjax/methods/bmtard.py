"""B-MTARD (Zhao et al., arXiv 2306.16170, TPAMI 2024) and MTARD (Zhao et al., ECCV 2022)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import distill, losses
from advjax.fields import above_up_to, at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method, State, accuracy


class Balance(NamedTuple):
    """What B-MTARD remembers, each [2] in the order (adversarial, clean).

    Attributes:
        temperatures: of the robust and of the clean teacher.
        weights: of the two losses.
        first: the two losses at the first mini-batch.
        step: steps done, int32.
    """

    temperatures: jax.Array
    weights: jax.Array
    first: jax.Array
    step: jax.Array


@dataclasses.dataclass(frozen=True)
class BMTARD(Method):
    """B-MTARD: a student S learns from a clean teacher on x and from a robust teacher on x', in balance.

        x'    = PGD on CE(S(x'), y), S in evaluation mode
        q_adv = softmax(T_robust(x') / tau_adv),    q_nat = softmax(T_clean(x) / tau_nat)
        L_k   = scale/(B C) sum q_k (log(q_k + 1e-5) - log p_k),    p_adv = softmax(S(x')), p_nat = softmax(S(x))
        tau_k <- clip(tau_k - r_tau sign(H(q_k) - H(q_other)), 1, 10)                        for the next step
        w_k   <- (1 - r_w) w_k + r_w share_k,    share_k ~ (L_k / L_k(first batch))^gamma    for this step
        min w_adv L_adv + w_nat L_nat

    Training forwards of the student, in order: adversarial, clean, each a batch of its own for BatchNorm. The teachers
    are frozen and in evaluation mode; the labels y serve the attack alone. Everything here is the authors' released
    code, but for two choices of ours: H is the true entropy, and `scale` 10 on CIFAR-100 is inferred for B-MTARD.

    Attributes:
        attack: the inner maximisation, against the student alone.
        scale: factor of the loss; 1 for CIFAR-10, 10 for CIFAR-100.
        temperature_balance: whether the temperatures move; both are 1 otherwise.
        temperature_rate: r_tau.
        loss_balance: whether the weights move; both are 0.5 otherwise.
        weight_rate: r_w.
        gamma: exponent of the relative losses.
        milestones: fractions of the run after which both rates drop to a tenth.
    """

    attack: TrainingAttack = TrainingAttack(start="normal")
    scale: float = field(1.0, at_least(0), "factor of the loss")
    temperature_balance: bool = field(True, help="whether the teachers' temperatures move")
    temperature_rate: float = field(0.001, at_least(0), "how far a temperature moves in a step")
    loss_balance: bool = field(True, help="whether the weights of the two losses move")
    weight_rate: float = field(0.025, between(0, 1), "how far the weights move in a step")
    gamma: float = field(1.0, at_least(0), "exponent of the relative losses")
    milestones: tuple[float, ...] = field(
        (215 / 300, 260 / 300, 285 / 300), above_up_to(0, 1), "fractions of the run after which both rates drop"
    )

    @property
    def trained(self) -> tuple[str, ...]:
        return ("student",)

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("clean_teacher", "robust_teacher")

    @property
    def best_by(self) -> str:
        # The method is judged by W-Robust, the mean of both.
        return "mean"

    def init_state(self, labels: np.ndarray, num_classes: int) -> State:
        del labels, num_classes
        return State(shared=Balance(jnp.ones(2), jnp.full(2, 0.5), jnp.zeros(2), jnp.zeros((), jnp.int32)))

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x_adv, student = self.attack(context, key, context.nets["student"], context.batch.label)
        return x_adv, {"student": student}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        x_adv, x, nets, old = adversarial, context.batch.image, context.nets, context.state.shared
        tau, epoch, epochs = old.temperatures, context.epoch, context.epochs

        z_adv, student = nets["student"].train(x_adv)
        t_adv = nets["robust_teacher"].logits_fn(x_adv)
        z_nat, student = student.train(x)
        t_nat = nets["clean_teacher"].logits_fn(x)
        pairs = ((t_adv, z_adv), (t_nat, z_nat))
        values = jnp.stack([self._distance(context, t, tau[k], z) for k, (t, z) in enumerate(pairs)])

        current = jax.lax.stop_gradient(values)
        entropies = jnp.stack([context.mean(losses.entropy(t, tau[k])) for k, (t, _) in enumerate(pairs)])
        first = jnp.where(old.step == 0, current, old.first)
        temperatures, weights = tau, old.weights
        if self.temperature_balance:
            rate = distill.dropped(self.temperature_rate, epoch, epochs, self.milestones)
            temperatures = distill.balance_temperatures(tau, entropies, rate)
        if self.loss_balance:
            rate = distill.dropped(self.weight_rate, epoch, epochs, self.milestones)
            weights = distill.balance_losses(old.weights, current, first, rate, self.gamma)

        state = context.state._replace(shared=Balance(temperatures, weights, first, old.step + 1))
        metrics = accuracy(context, clean=z_nat, robust=z_adv)
        for name, pair in (("loss", current), ("temperature", tau), ("entropy", entropies), ("weight", weights)):
            metrics |= {f"{kind}_{name}": context.metric(pair[k]) for k, kind in enumerate(("adv", "nat"))}
        return jnp.sum(weights * values), Aux({"student": student}, state, metrics)

    def _distance(self, context, teacher, temperature, logits):
        return self.scale * context.mean(distill.floored_kl(teacher, logits, temperature)) / context.num_classes


@dataclasses.dataclass(frozen=True)
class MTARD(BMTARD):
    """MTARD: B-MTARD with both temperatures held at 1."""

    temperature_balance: bool = field(False, help="whether the teachers' temperatures move")
