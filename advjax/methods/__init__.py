"""Training methods by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from advjax.errors import InputError, unknown
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Batch, Context, Method, Network, State, accuracy
from advjax.methods.natural import Natural
from advjax.methods.pgd_at import FGSMRS, PGDAT
from advjax.methods.trades import TRADES

METHODS: dict[str, type[Method]] = {
    "fgsm_rs": FGSMRS,
    "natural": Natural,
    "pgd_at": PGDAT,
    "trades": TRADES,
}

__all__ = [
    "FGSMRS",
    "METHODS",
    "PGDAT",
    "TRADES",
    "Aux",
    "Batch",
    "Context",
    "Method",
    "Natural",
    "Network",
    "State",
    "TrainingAttack",
    "accuracy",
    "create",
    "names",
]


def names() -> tuple[str, ...]:
    """Every method's name, sorted."""
    return tuple(sorted(METHODS))


def create(name: str, attack: TrainingAttack | None = None, **fields: Any) -> Method:
    """A method with its hyperparameters.

    Args:
        name: one of `names()`.
        attack: its inner maximisation, for methods that have one.
        **fields: its hyperparameters, see the class's attributes.

    Raises:
        InputError: an unknown method or hyperparameter, or a value of the wrong type.
    """
    if name not in METHODS:
        raise unknown("method (method.name)", name, METHODS)
    cls = METHODS[name]
    allowed = {field.name: field for field in dataclasses.fields(cls)}
    for field, value in fields.items():
        if field not in allowed or field == "attack":
            known = [f"method.{other}" for other in allowed if other != "attack"]
            raise unknown(f"field of method {name}", f"method.{field}", known)
        default = allowed[field].default
        if isinstance(default, (bool, int, float)) and not isinstance(value, (bool, int, float)):
            raise InputError(f"method.{field} must be a {type(default).__name__}, it is {value!r}")
    if "attack" in allowed and attack is not None:
        fields = {**fields, "attack": attack}
    return cls(**fields)


def describe() -> Mapping[str, str]:
    """Name -> the first line of the method's documentation."""
    return {name: (METHODS[name].__doc__ or "").strip().splitlines()[0] for name in names()}
