"""Training methods by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from advjax import plugins
from advjax.errors import InputError, shown, unknown, within
from advjax.methods.adaad import AdaAD
from advjax.methods.ard import ARD
from advjax.methods.attack import TrainingAttack
from advjax.methods.averaging import EMA, SEAT, SWA
from advjax.methods.awp import AWP
from advjax.methods.base import Aux, Batch, Context, Method, Network, PerExample, State, accuracy
from advjax.methods.bmtard import BMTARD, MTARD
from advjax.methods.ciard import CIARD
from advjax.methods.consistency import ConsistencyAT
from advjax.methods.distillation import Distillation
from advjax.methods.dkl import DKL
from advjax.methods.dm import DM
from advjax.methods.dynat import DYNAT
from advjax.methods.fat import FAT, FATTRADES
from advjax.methods.hat import HAT
from advjax.methods.iad import IADI, IADII
from advjax.methods.igdm import IGDM
from advjax.methods.kd import KD
from advjax.methods.lbgat import LBGAT
from advjax.methods.mart import MART
from advjax.methods.mat import MAT
from advjax.methods.mat_union import MATMutualUnion, MATUnion
from advjax.methods.natural import Natural
from advjax.methods.pgd_at import FGSMRS, PGDAT
from advjax.methods.ramp import RAMP
from advjax.methods.rebat import ReBAT
from advjax.methods.rpat import RPAT
from advjax.methods.rslad import RSLAD
from advjax.methods.saad import SAAD, SAADC
from advjax.methods.sglr import SGLR
from advjax.methods.st_at import STAT
from advjax.methods.te import TE
from advjax.methods.trades import TRADES
from advjax.methods.union import AVG, MAX, MSD, SingleNorm
from advjax.methods.weighting import GAIRAT, MAIL
from advjax.methods.wrapper import Wrapper

METHODS: dict[str, type[Method]] = {
    "adaad": AdaAD,
    "ard": ARD,
    "avg": AVG,
    "bmtard": BMTARD,
    "ciard": CIARD,
    "consistency_at": ConsistencyAT,
    "dkl": DKL,
    "dm": DM,
    "dynat": DYNAT,
    "fat": FAT,
    "fat_trades": FATTRADES,
    "fgsm_rs": FGSMRS,
    "hat": HAT,
    "iad_i": IADI,
    "iad_ii": IADII,
    "igdm": IGDM,
    "kd": KD,
    "lbgat": LBGAT,
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
    "ramp": RAMP,
    "rebat": ReBAT,
    "rpat": RPAT,
    "rslad": RSLAD,
    "saad": SAAD,
    "saad_c": SAADC,
    "seat": SEAT,
    "sglr": SGLR,
    "st_at": STAT,
    "te": TE,
    "trades": TRADES,
}

# NAME_awp is the method NAME inside the wrapper AWP, whose own fields are then awp_gamma and awp_warmup.
WRAPPERS: dict[str, type[Wrapper]] = {"awp": AWP, "ema": EMA, "gairat": GAIRAT, "mail": MAIL, "swa": SWA}

__all__ = [
    "ARD",
    "AVG",
    "AWP",
    "BMTARD",
    "CIARD",
    "DKL",
    "DM",
    "DYNAT",
    "EMA",
    "FAT",
    "FATTRADES",
    "FGSMRS",
    "GAIRAT",
    "HAT",
    "IADI",
    "IADII",
    "IGDM",
    "KD",
    "LBGAT",
    "MAIL",
    "MART",
    "MAT",
    "MAX",
    "METHODS",
    "MSD",
    "MTARD",
    "PGDAT",
    "RAMP",
    "RPAT",
    "RSLAD",
    "SAAD",
    "SAADC",
    "SEAT",
    "SGLR",
    "STAT",
    "SWA",
    "TE",
    "TRADES",
    "WRAPPERS",
    "AdaAD",
    "Aux",
    "Batch",
    "ConsistencyAT",
    "Context",
    "Distillation",
    "MATMutualUnion",
    "MATUnion",
    "Method",
    "Natural",
    "Network",
    "PerExample",
    "ReBAT",
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


def class_of(name: str) -> type[Method]:
    """The class that a name stands for, without its wrappers: one of `METHODS`, `package.module:Class`, or what an
    installed package registers (`advjax.plugins`).

    Raises:
        InputError: no method has that name.
    """
    if not isinstance(name, str):
        raise InputError(f"must be a method's name, it is {shown(name)}", "name")
    if name in METHODS:
        return METHODS[name]
    if not plugins.is_reference(name) and name not in plugins.registered("method"):
        raise unknown("method", name, METHODS, "name")
    found = plugins.resolve(name, "method", METHODS)
    if not (isinstance(found, type) and issubclass(found, Method) and dataclasses.is_dataclass(found)):
        raise InputError(f"must be a class made of advjax.methods.Method by @dataclass, {name} is {found!r}", "name")
    return found


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """`"sglr_awp"` as `("sglr", ("awp",))`: the method and the wrappers around it, from the inside out."""
    wrappers: tuple[str, ...] = ()
    if not isinstance(name, str) or plugins.is_reference(name):
        return name, wrappers
    while name not in METHODS and name.rpartition("_")[2] in WRAPPERS:
        name, _, wrapper = name.rpartition("_")
        wrappers = (wrapper, *wrappers)
    return name, wrappers


def create(name: str, attack: TrainingAttack | None = None, **values: Any) -> Method:
    """A method with its hyperparameters.

    Args:
        name: one of `names()`, or one with the names of wrappers behind it, such as `trades_awp`.
        attack: its inner maximisation, for methods that have one.
        **values: its hyperparameters, see the class's attributes; a wrapper's are those that begin with its name. The
            `base` of a method that is a wrapper by itself (`sglr`) is a mapping with a `name` and hyperparameters.

    Raises:
        InputError: an unknown method or hyperparameter, or a value that it cannot take; names it.
    """
    inner, wrappers = split_name(name)
    if len(set(wrappers)) < len(wrappers):
        raise InputError(f"must have each wrapper once, it is {name!r}", "name")
    own = {w: {f: v for f, v in values.items() if f.startswith(f"{w}_")} for w in wrappers}
    rest = {f: v for f, v in values.items() if not any(f in each for each in own.values())}
    method = _make(inner, class_of(inner), attack, rest)
    for wrapper, of_wrapper in own.items():
        given = _known(name, WRAPPERS[wrapper], of_wrapper, f"{wrapper}_")
        with within(f"{wrapper}_"):
            method = WRAPPERS[wrapper](method, **given)
    return method


def _make(name: str, cls: type[Method], attack: TrainingAttack | None, values: dict[str, Any]) -> Method:
    parts: dict[str, Any] = {}
    if issubclass(cls, Wrapper):
        default = default_base(cls)
        given = values.pop("base", default)
        if not isinstance(given, Mapping) or not all(isinstance(each, str) for each in given):
            raise InputError(f"must be a method's name and hyperparameters, it is {shown(given)}", "base")
        if "attack" in given:
            raise InputError("is no hyperparameter: the attack has a group of its own, `attack`", "base.attack")
        base = {"name": default.get("name"), **given}
        if base["name"] == default.get("name"):
            base = {**default, **base}
        with within("base."):
            parts["base"] = create(base.pop("name"), attack, **base)
    elif attack is not None and "attack" in {field.name for field in dataclasses.fields(cls)}:
        parts["attack"] = attack
    return cls(**parts, **_known(name, cls, values))


def default_base(cls: type[Wrapper]) -> dict[str, Any]:
    """The method that a wrapper goes around if nothing else is said: its name and hyperparameters; empty for none."""
    base: Any = next(each.default for each in dataclasses.fields(cls) if each.name == "base")
    return _described(base) if isinstance(base, Method) else {}


def _described(method: Method) -> dict[str, Any]:
    known = (name for name, cls in METHODS.items() if cls is type(method))
    name = next(known, None) or plugins.reference(type(method))
    base = {"base": _described(method.base)} if isinstance(method, Wrapper) else {}
    return {"name": name, **{field: _plain(getattr(method, field)) for field in hyperparameters(type(method))}, **base}


def hyperparameters(cls: type[Method]) -> dict[str, dataclasses.Field]:
    """The fields of a method's class that a config sets by name: all but the attack and the method inside a wrapper."""
    return {each.name: each for each in dataclasses.fields(cls) if each.name not in ("attack", "base")}


def defaults(name: str) -> dict[str, Any]:
    """Every hyperparameter of a method, its wrappers' included, with its default, as plain values.

    Raises:
        InputError: no method has that name.
    """
    inner, wrappers = split_name(name)
    cls = class_of(inner)
    plain = {field: _plain(each.default) for field, each in hyperparameters(cls).items()}
    if issubclass(cls, Wrapper):
        plain["base"] = default_base(cls)
    for wrapper in wrappers:
        fields = hyperparameters(WRAPPERS[wrapper])
        plain |= {f"{wrapper}_{field}": _plain(each.default) for field, each in fields.items()}
    return plain


def default_attack(name: str) -> TrainingAttack | None:
    """The inner maximisation that a method has if nothing else is said; None for methods without one."""
    defaults = {each.name: each.default for each in dataclasses.fields(class_of(split_name(name)[0]))}
    attack = defaults.get("attack") or getattr(defaults.get("base"), "attack", None)
    return attack if isinstance(attack, TrainingAttack) else None


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _known(name: str, cls: type[Method], values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`values`, named as the class has them, if it has them; lists as tuples, since a method is a hashable value."""
    allowed = {prefix + field: field for field in hyperparameters(cls)}
    for field in values:
        if field not in allowed:
            raise unknown(f"hyperparameter of method {name}", field, allowed, field)
    return {allowed[field]: tuple(value) if isinstance(value, list) else value for field, value in values.items()}


def describe() -> Mapping[str, str]:
    """Name -> the first line of the method's documentation; wrappers as `NAME_awp`."""
    classes = {**METHODS, **{f"NAME_{name}": cls for name, cls in WRAPPERS.items()}}
    return {name: (classes[name].__doc__ or "").strip().splitlines()[0] for name in sorted(classes)}
