"""Training methods by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from advjax.errors import InputError, unknown
from advjax.methods.attack import TrainingAttack
from advjax.methods.awp import AWP
from advjax.methods.base import Aux, Batch, Context, Method, Network, State, accuracy
from advjax.methods.bmtard import BMTARD, MTARD
from advjax.methods.dynat import DYNAT
from advjax.methods.mart import MART
from advjax.methods.mat import MAT
from advjax.methods.mat_union import MATMutualUnion, MATUnion
from advjax.methods.natural import Natural
from advjax.methods.pgd_at import FGSMRS, PGDAT
from advjax.methods.sglr import SGLR
from advjax.methods.trades import TRADES
from advjax.methods.union import AVG, MAX, MSD, SingleNorm
from advjax.methods.wrapper import Wrapper

METHODS: dict[str, type[Method]] = {
    "avg": AVG,
    "bmtard": BMTARD,
    "dynat": DYNAT,
    "fgsm_rs": FGSMRS,
    "mart": MART,
    "mat": MAT,
    "mat_mutual_union": MATMutualUnion,
    "mat_union": MATUnion,
    "max": MAX,
    "msd": MSD,
    "mtard": MTARD,
    "natural": Natural,
    "p_1": SingleNorm,
    "p_2": SingleNorm,
    "p_inf": SingleNorm,
    "pgd_at": PGDAT,
    "sglr": SGLR,
    "trades": TRADES,
}

# NAME_awp is the method NAME inside the wrapper AWP, whose own fields are then awp_gamma and awp_warmup.
WRAPPERS: dict[str, type[Wrapper]] = {"awp": AWP}

__all__ = [
    "AVG",
    "AWP",
    "BMTARD",
    "DYNAT",
    "FGSMRS",
    "MART",
    "MAT",
    "MAX",
    "METHODS",
    "MSD",
    "MTARD",
    "PGDAT",
    "SGLR",
    "TRADES",
    "WRAPPERS",
    "Aux",
    "Batch",
    "Context",
    "MATMutualUnion",
    "MATUnion",
    "Method",
    "Natural",
    "Network",
    "SingleNorm",
    "State",
    "TrainingAttack",
    "Wrapper",
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
        name: one of `names()`, or one with the name of a wrapper behind it, such as `trades_awp`.
        attack: its inner maximisation, for methods that have one.
        **fields: its hyperparameters, see the class's attributes; a wrapper's are those that begin with its name.

    Raises:
        InputError: an unknown method or hyperparameter, or a value of the wrong type.
    """
    base, _, wrapper = name.rpartition("_")
    if wrapper in WRAPPERS:
        prefix = f"{wrapper}_"
        own = {field: value for field, value in fields.items() if field.startswith(prefix)}
        rest = {field: value for field, value in fields.items() if field not in own}
        given = _checked(name, WRAPPERS[wrapper], own, prefix)
        return WRAPPERS[wrapper](create(base, attack, **rest), **given)
    if name not in METHODS:
        raise unknown("method (method.name)", name, METHODS)
    cls = METHODS[name]
    given = _checked(name, cls, fields)
    if attack is not None and any(field.name == "attack" for field in dataclasses.fields(cls)):
        given["attack"] = attack
    return cls(**given)


def _checked(name: str, cls: type[Method], fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`fields`, named as the class has them, if it has them and their values are of the right kind."""
    # The attack, and the method inside a wrapper, are not plain values.
    allowed = {
        prefix + field.name: field
        for field in dataclasses.fields(cls)
        if field.name != "attack" and field.default is not dataclasses.MISSING
    }
    given = {}
    for field, value in fields.items():
        if field not in allowed:
            raise unknown(f"field of method {name}", f"method.{field}", [f"method.{other}" for other in allowed])
        default = allowed[field].default
        if isinstance(default, (bool, int, float)) and not isinstance(value, (bool, int, float)):
            raise InputError(f"method.{field} must be a {type(default).__name__}, it is {value!r}")
        # JSON has no tuples; a method is a hashable value.
        given[allowed[field].name] = tuple(value) if isinstance(value, list) else value
    return given


def describe() -> Mapping[str, str]:
    """Name -> the first line of the method's documentation; wrappers as `NAME_awp`."""
    classes = {**METHODS, **{f"NAME_{name}": cls for name, cls in WRAPPERS.items()}}
    return {name: (classes[name].__doc__ or "").strip().splitlines()[0] for name in sorted(classes)}
