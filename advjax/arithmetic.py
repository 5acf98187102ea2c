"""Arithmetic of a function, counted from its trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax


def flops(function: Callable[..., Any], *args: Any, most: bool = False) -> float:
    """Floating-point operations of the convolutions and matrix products of a function, loops counted in full.

    A multiplication and an addition count as 2; zeros that a strided convolution's gradient inserts do not count, zeros
    of the padding do, as usual. What XLA merges or leaves out is not known here.

    Args:
        function: what `jax.make_jaxpr` can trace.
        *args: its arguments, or their shapes.
        most: of branches that depend on the data, count the one with most.

    Raises:
        ValueError: how much there is depends on the data.
    """
    return flops_of(jax.make_jaxpr(function)(*args).jaxpr, most)


def flops_of(jaxpr: Any, most: bool = False) -> float:
    """`flops` of a function that has been traced."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
            taps = math.prod(kernel[d] for d in numbers.rhs_spec[1:])
            total += 2 * equation.outvars[0].aval.size * taps / math.prod(params["lhs_dilation"])
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[d] for d in contracted)
            total += 2 * equation.outvars[0].aval.size * shared
        else:
            inner = [flops_of(getattr(value, "jaxpr", value), most) for value in jaxprs_in(params)]
            if name == "cond" and most:
                total += max(inner)
                continue
            if sum(inner) and name in ("while", "cond"):
                raise ValueError(f"the arithmetic inside a {name} depends on the data")
            total += sum(inner) * params.get("length", 1) if name == "scan" else sum(inner)
    return total


def jaxprs_in(params: dict[str, Any]) -> list[Any]:
    """The programs, closed ones or not, among an operation's parameters."""
    values = [v for value in params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    return [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]
