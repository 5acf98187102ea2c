"""Checks of what a caller hands to an attack. They look at values only where there are any, that is, outside `jit`."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses, threat
from advjax.attacks.engine.loops import as_partial, is_traced, warn_if_made_anew
from advjax.errors import InputError, shown, unknown
from advjax.numbers import number

NON_FINITE = ("broken", "robust")


def as_array(value: Any, field: str) -> Any:
    """`value` if it is an array, an array of it if it is a list or a number.

    Raises:
        InputError: it is neither; names `field`.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{field} must be an array without a mask: value.filled(...) decides what is masked")
    try:
        array = value if hasattr(value, "dtype") and hasattr(value, "shape") else np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    # NumPy counts dates and spans of time as numbers, JAX does not; bfloat16 and its like are of kind V.
    if isinstance(array.dtype, np.dtype) and (array.dtype.kind in "OUSMm" or array.dtype.type is np.void):
        own = type(value).__name__ if array is not value else f"an array of {array.dtype}"
        raise InputError(f"{field} must be an array of numbers, it is {own}")
    return array


def as_number(value: Any, field: str) -> Any:
    """A radius or step size: a fraction such as `"8/255"` as its value, a list as an array, anything else as it is."""
    if isinstance(value, str):
        return number(value, field)
    array = as_array(value, field)
    if array.dtype == bool or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InputError(f"{field} must be a real number, it is {_described(value)}")
    return array


def check_flag(value: Any, field: str) -> None:
    """Raises `InputError` unless `value` is True or False: a text such as "no" would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{field} must be True or False, it is {value!r}")


def check_count(value: Any, field: str, least: int) -> None:
    """Raises `InputError` unless `value` is a whole number of at least `least`, or not known yet."""
    if is_traced(value):
        return
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    whole |= hasattr(value, "dtype") and np.ndim(value) == 0 and jnp.issubdtype(value.dtype, jnp.integer)
    if not whole or isinstance(value, np.timedelta64):  # which NumPy counts among the integers
        raise InputError(f"{field} must be a whole number, it is {value!r}")
    if value < least:
        raise InputError(f"{field} must be at least {least}, it is {value}")
    if value >= 2**31:
        raise InputError(f"{field} must be below 2147483648, it is {shown(int(value))}")


def check_choice(value: Any, field: str, allowed: tuple[str, ...]) -> None:
    """Raises `InputError` unless `value` is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise unknown(field, value, allowed)


def check_key(key: Any) -> None:
    """Raises `InputError` unless `key` is one random key of JAX, new style or old."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.shape == ():
        return
    words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
    if dtype != jnp.uint32 or key.shape != words:
        raise InputError(f"key must be a random key such as jax.random.key(0), it is {_described(key)}")


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"{value.dtype} of shape {shape}"


def check_images(x: Any) -> None:
    """Raises `InputError` unless `x` holds a batch of images [B, ...], floats in [0, 1]."""
    if x.ndim < 2:
        raise InputError(f"x must be a batch of images [B, H, W, C], it has shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"x must hold floats in [0, 1], it holds {x.dtype}: divide images of 0..255 by 255")
    if is_traced(x) or not x.size:
        return
    with jax.ensure_compile_time_eval():  # x may be a constant of a function that is being traced
        low, high = (float(np.min(x)), float(np.max(x))) if isinstance(x, np.ndarray) else _span(x)
    if not (low >= 0.0 and high <= 1.0):
        raise InputError(f"x must lie in [0, 1], it spans {low:g} to {high:g}")


def _span(x: jax.Array) -> tuple[float, float]:
    return float(jnp.min(x)), float(jnp.max(x))


def check_budget(
    norm: str, eps: Any, image_shape: tuple[int, ...], n: int, step_size: Any = 0.0, field: str = "eps"
) -> None:
    """Raises `InputError` unless every radius is in [0, diameter of the image in `norm`] and every step finite, not < 0.

    Args:
        norm: canonical norm.
        eps: a number or [n].
        image_shape: of one image.
        n: number of images.
        step_size: a number or [n].
        field: what the radius is called.
    """
    for name, value in ((field, eps), ("step_size", step_size)):
        if is_traced(value):
            continue
        if np.ndim(value) and np.shape(value) != (n,):
            raise InputError(f"{name} must be a number or one per image, [{n}], it has shape {np.shape(value)}")
        if name == "step_size":
            values = np.asarray(value, np.float64)
            if not np.all((values >= 0) & np.isfinite(values)):
                worst = values.ravel()[np.argmin(np.where(np.isfinite(values), values, -np.inf))]
                raise InputError(f"step_size must be at least 0 and finite, it is {worst:g}")
        else:
            check_radius(norm, value, image_shape, name)


def check_radius(norm: str, eps: Any, image_shape: tuple[int, ...], field: str = "eps") -> None:
    """Raises `InputError` unless every radius is in [0, diameter of the image in `norm`]."""
    limit = threat.max_radius(norm, image_shape)
    values = np.asarray(eps, np.float64)
    if not np.all((values >= 0) & (values <= limit * (1 + 1e-6))):
        worst = float(values.ravel()[np.argmax(np.abs(values))])
        hint = f"; did you mean {worst:g}/255?" if norm == "linf" and 1 < worst <= 255 else ""
        raise InputError(f"{field} must be between 0 and {limit:g} for {norm}, it is {worst:g}{hint}")


def default_ids(ids: Any, n: int) -> jax.Array:
    """`ids` as int32 [n]; 0..n-1 if absent."""
    if ids is None:
        return jnp.arange(n, dtype=jnp.int32)
    ids = as_array(ids, "ids")
    if ids.shape != (n,) or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError(f"ids must be one per image, [{n}] whole numbers, they are {_described(ids)}")
    if isinstance(ids, np.ndarray) and n and not (ids.min() >= -(2**31) and ids.max() < 2**31):
        raise InputError(f"ids must fit into 32 bits, they span {ids.min()} to {ids.max()}")
    return jnp.asarray(ids, jnp.int32)


@jax.jit
def _apply(logits_fn: Callable, *args: jax.Array):  # jitted for its memory: no network is traced twice
    return logits_fn(*args)


_VALUES_ASKED = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


def trace(logits_fn: Callable, image_shape: tuple[int, ...], *, stochastic: bool = False) -> Any:
    """`logits_fn` traced on a few images, without being run; what `jax.jit(...).trace` gives.

    Raises:
        InputError: it cannot be, since it is no JAX function or takes batches of one size only, or does not map images
            [B, H, W, C] to floating-point logits [B, K] with K >= 2.
    """
    traced = _traced(logits_fn, image_shape, 3, stochastic)
    if traced.out_info.shape[1] == 3:  # as many as there are images: [K, B] would pass for [B, K]
        _traced(logits_fn, image_shape, 5, stochastic)
    return traced


def _traced(logits_fn: Callable, image_shape: tuple[int, ...], batch: int, stochastic: bool) -> Any:
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    keys = (jax.eval_shape(lambda: jax.random.key(0)),) if stochastic else ()
    if not callable(logits_fn):
        raise InputError(f"logits_fn must be a function of images, it is {_described(logits_fn)}")
    try:
        traced = _apply.trace(as_partial(logits_fn), images, *keys)
    except InputError:
        raise
    except _VALUES_ASKED as error:
        raise InputError(
            "logits_fn must be a JAX function: this one asks for the values of its images, as NumPy and `if` do"
        ) from error
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"logits_fn must take images of shape {image_shape} in batches of any size; "
            f"with {batch} of them it fails: {type(error).__name__}: {reason}"
        ) from error
    out = traced.out_info
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch:
        given = f"{out.dtype} of shape {shape}" if shape is not None else type(out).__name__
        raise InputError(
            f"logits_fn must map images [B, H, W, C] to logits [B, K]; for {batch} images it gives {given}"
        )
    if shape[1] < 2:
        raise InputError(f"an attack needs at least two classes, the logits of logits_fn have {shape[1]}")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise InputError(f"logits_fn must give logits in floating point, it gives {out.dtype}")
    return traced


def count_classes(logits_fn: Callable, image_shape: tuple[int, ...], *, stochastic: bool = False) -> int:
    """K of `logits_fn`, which is traced without being run; raises as `trace` does."""
    classes = trace(logits_fn, image_shape, stochastic=stochastic).out_info.shape[1]
    warn_if_made_anew(logits_fn)
    return classes


def check_labels(y: Any, num_classes: int, n: int | None = None, field: str = "y") -> None:
    """Raises `InputError` unless `y` holds integers [B] in 0..num_classes-1, `n` of them if given."""
    if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise InputError(f"{field} must be integer labels [B], it is {_described(y)}")
    if n is not None and len(y) != n:
        raise InputError(f"x and {field} must have the same length, they have {n} and {len(y)}")
    if not is_traced(y) and len(y):
        values = np.asarray(y)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= num_classes:
            raise InputError(
                f"{field} must be labels in 0..{num_classes - 1} (the logits' classes), they span {low} to {high}"
            )


def check_target(objective: str | losses.Objective, y: Any, n: int, num_classes: int) -> None:
    """Raises `InputError` unless `y` is what an objective takes and, if it is a function, it gives a value per example."""
    if not y.ndim or len(y) != n:
        raise InputError(f"x and y must have the same length, they have {n} and {len(y) if y.ndim else 1}")
    function = losses.objective(objective)
    if not isinstance(objective, str):
        logits = jax.ShapeDtypeStruct((n, num_classes), jnp.float32)
        try:
            out = jax.eval_shape(function, logits, y)
        except InputError:
            raise
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), "")
            raise InputError(
                f"objective must be a JAX function (logits, y) -> [B]; it fails: {type(error).__name__}: {reason}"
            ) from error
        shape = getattr(out, "shape", None)
        if shape != (n,):
            raise InputError(f"objective must give one value per example, [{n}], it gives shape {shape}")
        if not jnp.issubdtype(out.dtype, jnp.floating):
            raise InputError(f"objective must give values in floating point, it gives {out.dtype}")
    elif objective == "kl" or (objective == "ce" and jnp.issubdtype(y.dtype, jnp.floating) and y.ndim > 1):
        if y.shape != (n, num_classes) or not jnp.issubdtype(y.dtype, jnp.floating):
            raise InputError(f"y must be probabilities [{n}, {num_classes}], it is {_described(y)}")
        _check_probabilities(y)
    else:
        check_labels(y, num_classes)


def _check_probabilities(y: Any) -> None:
    if is_traced(y) or not len(y):
        return
    with jax.ensure_compile_time_eval():
        values = np.asarray(y, np.float32)
    # Of bfloat16, too, whose sums are off by a hundredth.
    if not (np.all(values >= 0) and np.all(np.abs(values.sum(-1) - 1.0) < 0.02)):
        raise InputError("y must be probabilities, each at least 0 and an example's of sum 1; these are not")
