"""Fields of a dataclass that declare what they may be: `beta: float = field(6.0, at_least(0), "weight of the KL")`.

One declaration gives the default, the range, the type (the annotation) and the sentence that `--help` shows; `check`
holds an instance to all of them. Numbers are finite unless a rule says otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from advjax import numbers
from advjax.errors import InputError, shown, unknown

# A group inside a group inside ...: no config is deeper, a mapping that contains itself is.
_DEPTH = 16

# A number that people write as a fraction: 8/255 stays text until it is computed with.
Number = numbers.Number


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes:
        holds: whether a value of the right type is allowed; of a tuple, every element is asked about.
        allowed: the words for it, after "must be".
    """

    holds: Callable[[Any], bool]
    allowed: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several names, which `names` gives when they are asked for."""

    kind: str
    names: Callable[[], Iterable[str]]
    open: bool = False  # whether `package.module:Object` is allowed, too


@dataclasses.dataclass(frozen=True)
class Parsed:
    """Text that a function understands, or raises an `InputError` about."""

    parse: Callable[[Any], Any]
    allowed: str


AnyRule = Rule | Choice | Parsed | None


def at_least(low: float) -> Rule:
    """low <= value."""
    return Rule(lambda value: value >= low, f"at least {low:g}")


def above(low: float) -> Rule:
    """low < value."""
    return Rule(lambda value: value > low, f"above {low:g}")


def between(low: float, high: float) -> Rule:
    """low <= value <= high."""
    return Rule(lambda value: low <= value <= high, f"between {_shown(low)} and {_shown(high)}")


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def strictly_between(low: float, high: float) -> Rule:
    """low < value < high."""
    return Rule(lambda value: low < value < high, f"above {low:g} and below {high:g}")


def at_least_below(low: float, high: float) -> Rule:
    """low <= value < high."""
    return Rule(lambda value: low <= value < high, f"at least {low:g} and below {high:g}")


def above_up_to(low: float, high: float) -> Rule:
    """low < value <= high."""
    return Rule(lambda value: low < value <= high, f"above {low:g} and at most {high:g}")


def one_of(*names: str, kind: str = "choice") -> Choice:
    """One of these names."""
    return Choice(kind, lambda: names)


def chosen_from(kind: str, names: Callable[[], Iterable[str]]) -> Choice:
    """One of the names of a registry, looked at only when a value is checked, or an object from outside."""
    return Choice(kind, names, open=True)


# Seeds become uint32 words of a random key: a larger one would be cut in silence.
SEED = Rule(lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")


def field(default: Any, rule: AnyRule = None, help: str = "") -> Any:
    """A dataclass field with a default, what is allowed, and a sentence about it.

    Args:
        default: its default; a mutable one is copied for every instance.
        rule: what its values must fulfil beside the type; None: any finite value of the type.
        help: what `--help` says of it.
    """
    metadata = {"rule": rule, "help": help}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def types_of(cls: type) -> Mapping[str, Any]:
    """Field name -> type, with the annotations evaluated."""
    hints = typing.get_type_hints(cls)
    return {each.name: hints[each.name] for each in dataclasses.fields(cls)}


def check(instance: Any) -> None:
    """Holds every field of a dataclass instance to its type and its rule; lists become tuples.

    Fields whose type is none of bool, int, float, str, `Number`, a tuple or a mapping of these are left alone.

    Raises:
        InputError: a value of another type, not finite, or against its rule; names the field.
    """
    types = types_of(instance.__class__)
    for each in dataclasses.fields(instance):
        value = coerced(getattr(instance, each.name), types[each.name], each.name)
        if type(value) is int and each.metadata.get("rule") is not SEED:  # what is counted on a device has 32 bits
            _expect(value, abs(value) < 2**31, "a whole number below 2147483648", each.name)
        obey(value, each.metadata.get("rule"), each.name)
        if value is not getattr(instance, each.name):
            object.__setattr__(instance, each.name, value)


def coerced(value: Any, kind: Any, name: str) -> Any:
    """`value` as a value of the type `kind`: lists as tuples, whole numbers as floats.

    Raises:
        InputError: it is of another type, or not finite; `name` is the field.
    """
    if kind is bool:
        return _expect(value, isinstance(value, bool), "true or false", name)
    if kind is int:
        _expect(value, isinstance(value, int) and not isinstance(value, bool), "a whole number", name)
        return _expect(value, _fits(value), "a whole number of at most 64 bits", name)
    if kind is float:
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(_expect(value, real and abs(value) < 2**1023 and math.isfinite(value), "a finite number", name))
    if kind is str:
        return _expect(value, isinstance(value, str) and "\0" not in value, "text", name)
    if kind == Number:
        numbers.number(value, name)
        return value
    if kind is dict:
        return plain(_expect(value, isinstance(value, Mapping), "a group of fields", name), name)
    if kind is tuple or typing.get_origin(kind) is tuple:
        _expect(value, isinstance(value, (list, tuple)), "a list", name)
        inner = typing.get_args(kind)
        return tuple(coerced(each, inner[0], name) if inner else plain(each, name) for each in value)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return _first_fitting(value, typing.get_args(kind), name)
    return value


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """`value` with tuples in place of lists, which JSON does not tell apart: what a field of no fixed type may be.

    Raises:
        InputError: it is, or holds, neither nothing, a truth value, a finite number, text, a list nor a group of fields
            with names; `name` is the field, and the one inside is named with it. What is a dataclass was read before.
    """
    if dataclasses.is_dataclass(value):
        return value
    if isinstance(value, Mapping) and depth < _DEPTH:
        for each in value:
            _expect(each, isinstance(each, str), "fields whose names are text", name)
        return {each: plain(inner, f"{name}.{each}", depth + 1) for each, inner in value.items()}
    if isinstance(value, (list, tuple)) and depth < _DEPTH:
        return tuple(plain(each, name, depth + 1) for each in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return coerced(value, int, name)
    right = value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value))
    right = right or (isinstance(value, str) and "\0" not in value)
    return _expect(value, right, "a finite number, text, true or false, or a list or a group of these", name)


def _fits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _first_fitting(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    for kind in kinds:
        try:
            return coerced(value, kind, name)
        except InputError as error:
            failure = error
    raise failure


def _expect(value: Any, right: bool, allowed: str, name: str) -> Any:
    if not right:
        raise InputError(f"must be {allowed}, it is {shown(value)}", name)
    return value


def obey(value: Any, rule: AnyRule, name: str) -> None:
    """Holds a value of the right type to its rule.

    Raises:
        InputError: it breaks the rule; `name` is the field.
    """
    if rule is None:
        return
    if isinstance(rule, Parsed):
        rule.parse(value)
        return
    if isinstance(rule, Choice):
        names = tuple(rule.names())
        if value not in names and not (rule.open and isinstance(value, str) and ":" in value):
            raise unknown(rule.kind, value, names, name)
        return
    for each in value if isinstance(value, tuple) else (value,):
        if not rule.holds(numbers.number(each, name) if isinstance(each, str) else each):
            raise InputError(f"must be {rule.allowed}, it is {shown(value)}", name)


def allowed(rule: AnyRule) -> str:
    """What a rule allows, in words; empty for none."""
    if isinstance(rule, Choice):
        return ", ".join(rule.names())
    return rule.allowed if rule else ""
