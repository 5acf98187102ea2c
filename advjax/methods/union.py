"""Robustness to a union of norms: MSD, MAX, AVG and single-norm training (Maini et al. 2020).

After the authors' released code, whose constants for CIFAR-10 are the defaults. Ours: random starts are uniform in the
ball, and the l_1 projection is exact and leaves interior points alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.fields import at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method, Metric, Network, accuracy
from advjax.methods.norms import ORDER, Radius, check_radii, per_norm, steepest_examples

# The authors train with an l_2 radius of 0.3 and test at 0.5.
L2, L1 = Radius("0.3", "0.05", 50), Radius("12", "1", 50)


def _fit(context: Context, net: Network, x_adv: jax.Array) -> tuple[jax.Array, Network, dict[str, Metric]]:
    """Cross-entropy on x' of a training forward, the network that it moved, and its accuracy."""
    logits, net = net.train(x_adv)
    loss = context.mean(losses.cross_entropy(logits, context.batch.label))
    return loss, net, accuracy(context, robust=logits)


@dataclasses.dataclass(frozen=True)
class SingleNorm(Method):
    """P_inf, P_2 or P_1: min CE(f(x'), y), x' by the PGD of one norm, `attack.norm`.

    Training forwards: adversarial.

    Attributes:
        attack: the inner maximisation; an l_1 step moves k coordinates by step_size/k, k from 5..20.
        restart: whether the l_1 attack has a second run, from a random start, which replaces the examples that it fools;
            the other norms have none.
        gap: an l_1 step leaves out coordinates this close to the bound that their gradient points at.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.03", step_size="0.003", steps=40, start="none")
    restart: bool = field(True, help="the l_1 attack has a second run, from a random start")
    gap: float = field(0.05, at_least(0), "an l_1 step leaves out coordinates this close to their bound")

    @property
    def divisible(self) -> bool:
        return True

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        net, attacks = context.nets["model"], {self.attack.norm: self.attack}
        x_adv, net = steepest_examples(
            context, key, net, attacks, restart=self.restart and self.attack.norm == "l1", gap=self.gap
        )
        return x_adv, {"model": net}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        loss, net, metrics = _fit(context, context.nets["model"], adversarial)
        return loss, Aux({"model": net}, metrics=metrics)


@dataclasses.dataclass(frozen=True)
class MSD(Method):
    """MSD: min CE(f(x'), y), x' by multi steepest descent over l_1, l_2 and l_inf (`advjax.attacks.msd`).

    Training forwards: adversarial.

    Attributes:
        attack: radius and step of l_inf; start and steps of all.
        l2: radius and step of l_2.
        l1: radius and step of l_1.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.03", step_size="0.003", steps=50, start="none")
    l2: Radius = L2
    l1: Radius = L1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_radii(self)

    @property
    def attacks(self) -> dict[str, TrainingAttack]:
        """Norm -> attack, in the order of `ORDER`."""
        return per_norm(self.attack, self.l2, self.l1)

    @property
    def divisible(self) -> bool:
        return True

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x_adv, net = steepest_examples(context, key, context.nets["model"], self.attacks)
        return x_adv, {"model": net}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        loss, net, metrics = _fit(context, context.nets["model"], adversarial)
        return loss, Aux({"model": net}, metrics=metrics)


@dataclasses.dataclass(frozen=True)
class MAX(MSD):
    """MAX: min CE(f(x'), y), x' per example that of the three norms' examples which has the largest cross-entropy.

    Training forwards: adversarial.

    Attributes:
        attack: the l_inf attack.
        l2: radius, step and steps of l_2.
        l1: radius, step and steps of l_1.
        restart: see `SingleNorm`.
        gap: see `SingleNorm`.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.03", step_size="0.005", steps=40, start="none")
    restart: bool = field(True, help="the l_1 attack has a second run, from a random start")
    gap: float = field(0.05, at_least(0), "an l_1 step leaves out coordinates this close to their bound")

    def examples(self, context: Context, key: jax.Array, norms: Sequence[str]) -> tuple[jax.Array, Network]:
        """Examples [B, H, W, C] of each norm, made one after the other, and the network attacked."""
        net, made = context.nets["model"], []
        for norm in norms:
            own_key, attacks = jax.random.fold_in(key, ORDER.index(norm)), {norm: self.attacks[norm]}
            x_adv, net = steepest_examples(
                context, own_key, net, attacks, restart=self.restart and norm == "l1", gap=self.gap
            )
            made.append(x_adv)
        return jnp.stack(made), net

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        made, net = self.examples(context, key, ORDER)
        scores = []
        for x_adv in made:
            logits, net = net.train(x_adv) if self.attack.statistics == "batch" else (net.logits_fn(x_adv), net)
            scores.append(losses.cross_entropy(logits, context.batch.label))
        worst = jnp.argmax(jnp.stack(scores), 0)
        return made[worst, jnp.arange(len(worst))], {"model": net}


@dataclasses.dataclass(frozen=True)
class AVG(MAX):
    """AVG: per mini-batch one optimizer step after the other on the CE of l_1's, l_2's and l_inf's own fresh examples.

    Training forwards: adversarial, in every optimizer step.

    Attributes:
        attack: the l_inf attack.
        l2: radius, step and steps of l_2.
        l1: radius, step and steps of l_1.
        restart: see `SingleNorm`.
        gap: see `SingleNorm`.
        mean: one optimizer step on the mean CE of the three instead, as the authors do on MNIST; forwards in order.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.03", step_size="0.003", steps=40, start="none")
    mean: bool = field(False, help="one step on the mean of the three losses instead of three steps")

    @property
    def divisible(self) -> bool:
        return False

    @property
    def update_groups(self) -> tuple[tuple[str, ...], ...]:
        return (self.trained,) * (1 if self.mean else len(ORDER))

    @property
    def perturb_each_group(self) -> bool:
        return True

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        made, net = self.examples(context, key, ORDER if self.mean else ORDER[context.group : context.group + 1])
        return made, {"model": net}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        total, net, metrics = jnp.zeros(()), context.nets["model"], {}
        norms = ORDER if self.mean else ORDER[context.group : context.group + 1]
        for norm, x_adv in zip(norms, adversarial, strict=True):
            loss, net, own = _fit(context, net, x_adv)
            total += loss / len(norms)
            metrics[f"{norm}_accuracy"] = own["robust_accuracy"]
        summed = [sum(parts[1:], parts[0]) for parts in zip(*metrics.values(), strict=True)]
        return total, Aux({"model": net}, metrics={**metrics, "robust_accuracy": tuple(summed)})
