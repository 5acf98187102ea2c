"""The attacks of several norms inside a training step, shared by the methods for a union of norms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import fields, losses, threat
from advjax.attacks.msd import Budget, steepest_descent
from advjax.errors import InputError, shown, unknown, within
from advjax.fields import Number, at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Network

# The order in which the authors of MSD score candidates; later ones win ties.
ORDER = ("l1", "l2", "linf")


@dataclasses.dataclass(frozen=True)
class Radius:
    """What the attack of one norm does differently from `config.attack`.

    Attributes:
        eps: radius.
        step_size: length of a step, in its norm.
        steps: number of gradients; 0: as many as the l_inf attack.
    """

    eps: Number = field("0", at_least(0), "radius in this norm")
    step_size: Number = field("0", at_least(0), "length of a step in this norm")
    steps: int = field(0, at_least(0), "gradients; 0: as many as the l_inf attack")

    def __post_init__(self) -> None:
        fields.check(self)


def check_radii(method: Any) -> None:
    """For `__post_init__` of a method with the fields `attack`, `l2` and `l1`: makes the last two radii, checks all.

    A radius may be given as the plain values of a config.

    Raises:
        InputError: a value is none, or there is another field; names it.
    """
    for name in ("l2", "l1"):
        value = getattr(method, name)
        if isinstance(value, Mapping):
            allowed = [each.name for each in dataclasses.fields(Radius)]
            for given in value:
                if given not in allowed:
                    raise unknown("field of a radius", given, allowed, f"{name}.{given}")
            with within(f"{name}."):
                object.__setattr__(method, name, Radius(**value))
        elif not isinstance(value, Radius):
            raise InputError(f"must be a group of fields, it is {shown(value)}", name)
    per_norm(method.attack, method.l2, method.l1)


def per_norm(attack: TrainingAttack, l2: Radius, l1: Radius) -> dict[str, TrainingAttack]:
    """The attacks of the three norms in the order of `ORDER`; `attack` is the one of l_inf.

    Raises:
        InputError: `attack` has another norm.
    """
    if attack.norm != "linf":
        raise InputError(
            f"must have the norm linf, it has {attack.norm}: it describes the l_inf attack of a union of norms, "
            "l2 and l1 (in a config, method.l2 and method.l1) the others",
            "attack",
        )
    attacks = {"l1": l1, "l2": l2}
    made = {norm: dataclasses.replace(attack, norm=norm, **_given(radius)) for norm, radius in attacks.items()}
    return {**made, "linf": attack}


def _given(radius: Radius) -> dict[str, Any]:
    given = dataclasses.asdict(radius)
    return given if radius.steps else {"eps": radius.eps, "step_size": radius.step_size}


def steepest_examples(
    context: Context,
    key: jax.Array,
    net: Network,
    attacks: Mapping[str, TrainingAttack],
    *,
    restart: bool = False,
    gap: float | None = None,
) -> tuple[jax.Array, Network]:
    """Examples of the largest cross-entropy by `advjax.attacks.msd`, over one norm or several.

    Args:
        context: the step's context.
        key: random key.
        net: the network attacked, on the statistics that the attacks say.
        attacks: norm -> attack; steps, start and statistics are those of the last.
        restart: whether a second run from a uniform start replaces an example that it fools (one norm only).
        gap: of the l_1 step; None: 1/k.

    Returns:
        Images [B, H, W, C], and the network, whose statistics have moved if they are the batch's.
    """
    x, y, ids = context.batch.image, context.batch.label, context.batch.id
    *_, (norm, attack) = attacks.items()
    budgets = {name: Budget(*each.budget(context)) for name, each in attacks.items()}

    def forward(x_adv, stats):
        if attack.statistics == "running":
            return net.logits_fn(x_adv), stats
        logits, moved = net.with_stats(stats).train(x_adv)
        return logits, moved.stats

    def objective(x_adv, stats):
        logits, stats = forward(x_adv, stats)
        # Padding must not pull on the batch statistics that the others are attacked on.
        return losses.cross_entropy(logits, y) * context.batch.weight, stats

    def run(key, kind, stats):
        start = threat.random_start(jax.random.fold_in(key, 0), x, ids, norm, budgets[norm].eps, kind)
        key = jax.random.fold_in(key, 1)
        return steepest_descent(objective, x, start, budgets=budgets, steps=attack.steps, key=key, gap=gap, aux=stats)

    x_adv, stats = run(key, attack.start, net.stats)
    if restart:
        again, stats = run(jax.random.fold_in(key, 2), "uniform", stats)
        logits, stats = forward(again, stats)
        fooled = losses.correct(logits, y) == 0
        x_adv = jnp.where(fooled[:, None, None, None], again, x_adv)
    return x_adv, net.with_stats(stats)
