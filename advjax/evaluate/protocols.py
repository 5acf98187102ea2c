"""Named sets of attacks. A protocol is a function of the threat model, so that every row says what was run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from advjax.attacks import pgd
from advjax.errors import unknown

LogitsFn = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Attack:
    """One row of a report.

    Attributes:
        name: unique in its protocol, as it appears in the report.
        craft: `(logits_fn, key, x, y, ids) -> x_adv`, all [B, ...].
        params: what the report says of it.
        forwards: forward passes per image, the scoring of the result included.
        backwards: backward passes per image.
        surrogate: name of the network that the examples were crafted on, if not the one that is scored.
    """

    name: str
    craft: Callable[..., jax.Array]
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    forwards: int = 1
    backwards: int = 0
    surrogate: str | None = None


def _unchanged(logits_fn, key, x, y, ids):
    return x


def clean() -> Attack:
    """No attack: accuracy on the images as they are."""
    return Attack("clean", _unchanged)


def _run_pgd(logits_fn, key, x, y, ids, **params):
    return pgd(logits_fn, key, x, y, ids=ids, **params)


def pgd_attack(
    name: str,
    *,
    norm: str,
    eps: float,
    steps: int,
    step_size: float,
    start: str = "uniform",
    objective: str = "ce",
    restarts: int = 1,
    freeze: bool = False,
) -> Attack:
    """`advjax.attacks.pgd` with these settings as a row of a report."""
    settings = {
        "steps": steps,
        "step_size": step_size,
        "start": start,
        "objective": objective,
        "restarts": restarts,
        "freeze": freeze,
    }
    passes = steps * restarts
    scoring = restarts if restarts > 1 else 0
    craft = partial(_run_pgd, norm=norm, eps=eps, **settings)
    return Attack(name, craft, settings, forwards=passes + scoring + 1, backwards=passes)


def pgd_steps(steps: int, norm: str, eps: float) -> Attack:
    """`pgd10`, `pgd20`, `pgd100`: step eps/4, uniform start (l_1: 1/12 of eps, since its steps are sparse)."""
    step_size = eps / 12 if norm == "l1" else eps / 4
    return pgd_attack(f"pgd{steps}", norm=norm, eps=eps, steps=steps, step_size=step_size)


def quick(norm: str, eps: float) -> tuple[Attack, ...]:
    """Clean images and PGD-20: minutes where AutoAttack takes hours, and no substitute for it."""
    return (clean(), pgd_steps(20, norm, eps))


PROTOCOLS: dict[str, Callable[[str, float], tuple[Attack, ...]]] = {"quick": quick}


def protocol(name: str, norm: str, eps: float) -> tuple[Attack, ...]:
    """The attacks of a protocol.

    Args:
        name: one of `PROTOCOLS`.
        norm: canonical norm of the threat model.
        eps: its radius.

    Raises:
        InputError: no protocol has that name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol (evaluation.protocol)", name, PROTOCOLS)
    return PROTOCOLS[name](norm, eps)
