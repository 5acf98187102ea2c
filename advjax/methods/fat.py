"""FAT: friendly adversarial training, whose attack stops early (Zhang et al. 2020)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advjax import losses, threat
from advjax.errors import InputError
from advjax.fields import Number, at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, Network
from advjax.methods.pgd_at import PGDAT
from advjax.methods.trades import ORDERS, TRADES
from advjax.numbers import number


def friendly_examples(
    attack: TrainingAttack,
    context: Context,
    key: jax.Array,
    net: Network,
    target: jax.Array,
    objective: str,
    patience: jax.typing.ArrayLike,
    noise: float,
) -> jax.Array:
    """PGD that leaves an image at the first point where it is wrong after `patience` earlier ones; [B, H, W, C].

    Args:
        attack: budget and start; the points where it takes a gradient, the start among them, are those looked at.
        context: the step's context.
        key: random key.
        net: the network attacked, in evaluation mode.
        target: what the objective takes.
        objective: name of what is maximised.
        patience: tau, a number, possibly traced.
        noise: of every step, before the projection: that many N(0, I).
    """
    x, ids, label, loss = context.batch.image, context.batch.id, context.batch.label, losses.objective(objective)
    start = jnp.clip(attack.start_of(context, key), 0.0, 1.0)
    eps, step_size = attack.budget(context)

    def step(i, carry):
        x_adv, left = carry

        def total(x_adv):
            logits = net.logits_fn(x_adv)
            return jnp.sum(loss(logits, target)), logits

        gradient, logits = jax.grad(total, has_aux=True)(x_adv)
        left = left - (1.0 - losses.correct(logits, label))
        keys = threat.example_keys(jax.random.fold_in(key, i + 1), ids)
        drawn = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)
        moved = x_adv + step_size * threat.steepest_step(gradient, attack.norm) + noise * drawn
        moved = threat.project(moved, x, attack.norm, eps)
        return jnp.where(left[:, None, None, None] < 0, x_adv, moved), left

    left = jnp.full(len(x), patience, jnp.float32)
    return jax.lax.stop_gradient(jax.lax.fori_loop(0, attack.steps, step, (start, left))[0])


@dataclasses.dataclass(frozen=True)
class FAT(PGDAT):
    """min CE(f(x'), y), x' the first point of PGD that is wrong after tau earlier wrong ones, tau growing over the run.

    Of the points where a gradient is taken; where none is, the last point. Training forwards: adversarial. Source: the
    authors' code (tau 0 to epoch 50, 1 to epoch 90 of 120, then 2).

    Attributes:
        attack: the inner maximisation, in l_inf or l_2.
        label_smoothing: see `PGDAT`.
        clean_statistics: see `PGDAT`.
        tau: how many wrong points are passed over, in the parts of the run.
        until: fractions of the run with whose epoch round(fraction * epochs) each part but the last one ends.
        noise: added to every step of the attack, times N(0, I).
    """

    attack: TrainingAttack = TrainingAttack(eps="0.031", step_size="0.007")
    clean_statistics: bool = field(False, help="move the statistics on clean images after each step")
    tau: tuple[int, ...] = field((0, 1, 2), at_least(0), "wrong points that the attack passes over, by part of the run")
    until: tuple[float, ...] = field((50 / 120, 90 / 120), between(0, 1), "fractions of the run where a part ends")
    noise: Number = field(0.001, at_least(0), "of every step of the attack")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_friendly(self)

    @property
    def weighable(self) -> bool:
        return False

    @property
    def soft_labels(self) -> bool:
        return False

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        net, label, tau = context.nets["model"], context.batch.label, patience(self, context)
        return friendly_examples(self.attack, context, key, net, label, "ce", tau, number(self.noise)), {}


@dataclasses.dataclass(frozen=True)
class FATTRADES(TRADES):
    """FAT for TRADES: its loss on the first point of its own attack that is wrong after tau earlier wrong ones.

    Training forwards: TRADES's. Source: the authors' code (tau 0, 1, 2, 3 from epochs 1, 31, 51, 71 of 85, no noise).

    Attributes:
        attack: the inner maximisation, in l_inf or l_2.
        beta: see `TRADES`.
        order: see `TRADES`.
        tau: see `FAT`.
        until: see `FAT`.
        noise: see `FAT`.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.031", step_size="0.007", start="normal")
    order: str = field("clean-adv", ORDERS, "of the forwards")
    tau: tuple[int, ...] = field((0, 1, 2, 3), at_least(0), "wrong points that the attack passes over, by part")
    until: tuple[float, ...] = field((30 / 85, 50 / 85, 70 / 85), between(0, 1), "fractions where a part ends")
    noise: Number = field(0.0, at_least(0), "of every step of the attack")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_friendly(self)

    @property
    def weighable(self) -> bool:
        return False

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        net, tau = context.nets["model"], patience(self, context)
        p_clean = jax.nn.softmax(net.logits_fn(context.batch.image))
        return friendly_examples(self.attack, context, key, net, p_clean, "kl", tau, number(self.noise)), {}


def patience(method: FAT | FATTRADES, context: Context) -> jax.Array:
    """tau of this epoch."""
    ends = jnp.asarray([round(share * context.epochs) for share in method.until])
    return jnp.asarray(method.tau)[jnp.sum(context.epoch >= ends)]


def check_friendly(method: FAT | FATTRADES) -> None:
    """Raises an `InputError` unless there is a tau for every part, and the attack is one that can stop."""
    if len(method.tau) != len(method.until) + 1:
        raise InputError(f"must be one number per part, {len(method.until) + 1}, it is {method.tau}", "tau")
    if method.attack.statistics != "running" or method.attack.norm == "l1":
        raise InputError("must be linf or l2 on running statistics for FAT", "attack")
