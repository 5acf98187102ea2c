"""Numbers that may be written as fractions: 8/255 is what people mean, 0.03137 is not quite it."""

from __future__ import annotations

import math
from fractions import Fraction

from advjax.errors import InputError, shown

Number = float | int | str


def number(value: Number, field: str = "number") -> float:
    """The value of a number or of a fraction such as `"8/255"`.

    Raises:
        InputError: neither, or not finite.
    """
    try:
        if isinstance(value, str) and "/" in value:
            top, bottom = value.split("/")
            result = float(Fraction(top.strip()) / Fraction(bottom.strip()))
        else:
            result = float("nan") if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        result = float("nan")
    if not abs(result) < float("inf"):
        raise InputError(f"must be a number or a fraction such as 8/255, it is {shown(value)}", field)
    return result


def check_range(value: float, field: str, low: float = 0.0, high: float = math.inf) -> None:
    """Raises `InputError` unless low <= value <= high."""
    if not low <= value <= high:
        allowed = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
        raise InputError(f"must be {allowed}, it is {value}", field)


def text(value: Number) -> str:
    """The number as its user wrote it: fractions stay fractions."""
    return value.replace(" ", "") if isinstance(value, str) else f"{value:g}"
