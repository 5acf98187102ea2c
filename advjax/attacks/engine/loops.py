"""Loops of an attack, on the device where that is fast and on the host where it is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from advjax import compiling


def as_partial(function: Callable) -> jax.tree_util.Partial:
    """`function` as a pytree, so that it can be an argument of a jitted function.

    `advjax.logits_fn` returns one already, whose variables are then arguments of the compiled program instead of
    constants in it; any other function is compared by identity, so the same object never compiles twice.
    """
    return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)


_made: dict[Any, set[int]] = {}


def warn_if_made_anew(function: Callable) -> None:
    """Says once, at the third function object that one piece of code has made, that each is compiled anew.

    Called outside `jit` only is it true: within, nothing is compiled for the attack alone.
    """
    kept = function.func if isinstance(function, jax.tree_util.Partial) else function
    inner = kept.func if isinstance(kept, partial) else kept
    code = getattr(inner, "__code__", None)
    try:
        seen, identity = _made.setdefault(code, set()), hash(kept)
    except TypeError:  # `jit` will say so
        return
    # Under `jit` even a constant is traced.
    if code is None or identity in seen or len(seen) == 3 or is_traced(jnp.zeros(())):
        return
    seen.add(identity)
    if len(seen) == 3:
        warnings.warn(
            f"this is the third function made by {code.co_name} ({code.co_filename}:{code.co_firstlineno}) that is "
            "attacked, and each is compiled anew: make it once, or carry what changes as an argument, as "
            "advjax.logits_fn(module, variables) and jax.tree_util.Partial(apply, variables) do",
            stacklevel=2,
        )


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, that is, whether a surrounding `jit`, `grad` or `vmap` is at work."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _loop(body: Callable[..., Any], steps: int, carry: Any, args: tuple) -> Any:
    return jax.lax.fori_loop(0, steps, lambda i, carry: body(i, carry, *args), carry)


# `repeat` as one program of an accelerator, whatever the number of steps; `in_place` takes the carry's memory.
on_device = compiling.jit(_loop, static_argnums=0)
in_place = compiling.jit(_loop, static_argnums=0, donate_argnums=2)


@partial(compiling.jit, static_argnums=0)
def _one_step(body: Callable[..., Any], i: int, carry: Any, args: tuple) -> Any:
    return body(i, carry, *args)


def repeat(body: Callable[..., Any], steps: int, carry: Any, *args: Any, donate: bool = False) -> Any:
    """`carry = body(i, carry, *args)` for i in 0..steps-1.

    Under a surrounding transformation, and on accelerators, this is one `fori_loop`. Called eagerly on CPU it is a host
    loop over the jitted body, because XLA's CPU backend runs a convolution's input gradient 6 to 13 times slower inside
    a loop (jax-ml/jax issue 12868), and somebody else's network cannot be cured layer by layer.

    Args:
        body: hashable, and equal for equal programs: a module-level function, `jax.tree_util.Partial`s and data go in
            `args`. Called eagerly, it is compiled once for every distinct `body` and shapes.
        steps: how often.
        carry: a pytree of fixed structure and shapes.
        *args: pytrees that every step reads.
        donate: whether the caller is done with `carry`, whose memory a loop on the device then takes for the result.

    Returns:
        The last carry.
    """
    if is_traced(carry, args):
        return jax.lax.fori_loop(0, steps, lambda i, carry: body(i, carry, *args), carry)
    if compiling.platform() != "cpu":
        return (in_place if donate else on_device)(body, steps, carry, args)
    for i in range(steps):
        carry = _one_step(body, i, carry, args)
    return carry
