"""Which network a function is: what binds a record to it, and what tells a network that defends itself while it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxprs_in_params

from advjax import compiling
from advjax.arithmetic import jaxprs_in
from advjax.attacks.engine.inputs import trace
from advjax.attacks.engine.loops import as_partial

PROBE = 8


def identity(logits_fn: Callable, image_shape: tuple[int, ...], *, stochastic: bool = False) -> dict[str, Any]:
    """What tells a network from another with the same outputs' shape, as plain values for a record.

    Returns:
        `{"weights": SHA-256}` of the arrays that the function carries where it is a pytree (`advjax.logits_fn`);
        otherwise `{"probe": logits}` of `PROBE` fixed images, flattened. Neither depends on batches or devices. Of a
        function that draws on the host, and answers differently every time, nothing is known: `{}`.
    """
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(as_partial(logits_fn))
        if hasattr(leaf, "dtype")
    ]
    if leaves:
        digest = hashlib.sha256()
        for path, leaf in leaves:
            digest.update(f"{path}{leaf.dtype}{leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return {"weights": digest.hexdigest()}
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(PROBE, *image_shape)), jnp.float32)
    key = (jax.random.key(0),) if stochastic else ()
    first, second = (np.asarray(logits_fn(images, *key), np.float64) for _ in range(2))
    return {"probe": np.round(first, 7).ravel().tolist()} if same_logits(first, second) else {}


def same_logits(one: Any, other: Any) -> bool:
    """Whether two probes are of one network: equal but for rounding, which on accelerators is coarse."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        return False
    tolerance = 1e-4 if compiling.platform() == "cpu" else 1e-2
    scale = np.max(np.abs(one[np.isfinite(one)]), initial=1e-6)
    return bool(np.allclose(one, other, rtol=0, atol=tolerance * scale, equal_nan=True))


def draws_on_host(logits_fn: Callable, image_shape: tuple[int, ...], *, stochastic: bool = False) -> bool:
    """Whether a forward draws random numbers outside JAX, which a compiled one would draw but once.

    Told by two traces whose constants differ: a forward that is not compiled would show it, too, but each of its
    operations is compiled alone, which on a GPU takes longer than the whole.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    keys = (jax.eval_shape(lambda: jax.random.key(0)),) if stochastic else ()
    one, other = (list(_constants(jax.make_jaxpr(lambda *args: logits_fn(*args))(images, *keys))) for _ in range(2))
    return len(one) != len(other) or not all(map(_same, one, other))


def _constants(jaxpr: Any) -> Iterator[Any]:
    yield from getattr(jaxpr, "consts", ())
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield from (each.val for each in equation.invars if isinstance(each, Literal))
        for inner in jaxprs_in(equation.params):
            yield from _constants(inner)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind == "f")


def uses_gradients(logits_fn: Callable, image_shape: tuple[int, ...], *, stochastic: bool = False) -> bool:
    """Whether a forward takes derivatives itself, as defences do that purify or adapt at test time.

    Read off the trace, in which JAX marks every operation that comes of differentiation.
    """
    traced = trace(logits_fn, image_shape, stochastic=stochastic)
    return any("jvp(" in stack or "transpose(" in stack for stack in _name_stacks(traced.jaxpr.jaxpr))


def _name_stacks(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield str(equation.source_info.name_stack)
        for inner in jaxprs_in_params(equation.params):
            yield from _name_stacks(inner)
