"""How much arithmetic a training step is, counted in passes through the network.

A forward of one batch is 1 pass. Its gradient with respect to the images costs 1 more, with respect to parameters and
inner activations 2 more: a PGD step is 2 passes, a training step 3, PGD-K adversarial training 2K + 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Passes(NamedTuple):
    """Passes of one step of a method whose networks are all of one size.

    Attributes:
        per_step: for every step of the attack.
        rest: beside the attack's steps.
        merged: of the rest, forwards that the program asks for twice at the same weights, images and statistics, which
            XLA therefore computes once.
    """

    per_step: int
    rest: int
    merged: int = 0

    def __call__(self, steps: int) -> int:
        """Passes that are computed, of an attack of so many steps."""
        return self.per_step * steps + self.rest - self.merged


# Config (and variant) -> passes, with PGD on running statistics and the fields of the config otherwise.
PASSES: dict[str, Passes] = {
    "natural": Passes(0, 3),
    "pgd_at": Passes(2, 4),  # training step 3, clean forward after it 1
    "fgsm_rs": Passes(2, 3),
    "trades": Passes(2, 8, 1),  # p(x) 1; clean 3, adversarial 3; clean again 1, for the statistics alone, merged
    "mart": Passes(2, 6),  # clean 3, adversarial 3
    "dynat": Passes(2, 8, 1),  # guide: labels 1, merged with its training step 3; target 3, clean 1
    "sglr": Passes(2, 4),  # adversarial 3, clean 1
    "mtard": Passes(2, 8),  # student 3 + 3, two teachers 1 + 1
    "bmtard": Passes(2, 8),
    "mat": Passes(4, 8),  # two peers, each 3 on its own examples, 1 on the clean images as a teacher
    "mat:cifar10-exchange": Passes(4, 12),  # two peers, each 3 on the examples of both
    "mat_union": Passes(
        12, 21
    ),  # six attacks; generalist 3 on three batches, three specialists 3 on one and 1 as teachers
    "mat_union:cifar10-exchange": Passes(12, 36),  # generalist 3 on six batches, three specialists 3 on two
    "mat_union:cifar10-mutual": Passes(6, 12),  # three peers, each 3 on its own examples, 1 as a teacher
    "p_inf": Passes(2, 3),
    "p_1": Passes(4, 4),  # two runs of the attack, a forward that tells whom the second one fools, training step 3
    "msd": Passes(5, 3),  # an attack step also scores three candidates
    "max": Passes(8, 7),  # three norms, l_1 with two runs and 1; scores 3, training step 3
    "avg": Passes(8, 10),  # p_1 and two of p_inf, each with a training step
    "at_awp": Passes(2, 7),  # PGD-AT and the proxy's gradient 3
    "trades_awp": Passes(2, 15, 2),  # TRADES, and its loss on the proxy 7, a forward merged in each
    "dynat:cifar10-awp": Passes(2, 17),  # p(x) 1, labels 1, guide 3, target 3 + 3, proxy 3 + 3
}


def flops(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of the convolutions and matrix products of a function, loops counted in full.

    A multiplication and an addition count as 2; zeros that a strided convolution's gradient inserts do not count, zeros
    of the padding do, as usual. What XLA merges or leaves out is not known here.

    Args:
        function: what `jax.make_jaxpr` can trace.
        *args: its arguments, or their shapes.
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: Any) -> float:
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
            inner = sum(_flops(getattr(value, "jaxpr", value)) for value in _jaxprs(params))
            if inner and name in ("while", "cond"):
                raise ValueError(f"the arithmetic inside a {name} depends on the data")
            total += inner * params.get("length", 1) if name == "scan" else inner
    return total


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    values = [v for value in params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    return [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]
