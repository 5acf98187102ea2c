"""Networks by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax.errors import InputError, unknown
from advjax.models.layers import Network
from advjax.models.resnet import ResNet
from advjax.models.small_cnn import TinyCNN

_NETWORKS: dict[str, tuple[type[Network], dict[str, Any]]] = {
    "resnet18": (ResNet, {"blocks": (2, 2, 2, 2)}),
    "resnet18_lbgat": (ResNet, {"blocks": (2, 2, 2, 2), "strides": (1, 1, 2, 2)}),
    "resnet34": (ResNet, {"blocks": (3, 4, 6, 3)}),
    "resnet50": (ResNet, {"blocks": (3, 4, 6, 3), "bottleneck": True}),
    "tiny_cnn": (TinyCNN, {}),
}


def names() -> tuple[str, ...]:
    """Every network's name, sorted."""
    return tuple(sorted(_NETWORKS))


def options(name: str) -> dict[str, Any]:
    """The options of a network and their defaults.

    Raises:
        InputError: no network has that name.
    """
    if name not in _NETWORKS:
        raise unknown("network", name, names())
    cls, preset = _NETWORKS[name]
    fields = [f for f in dataclasses.fields(cls) if f.name not in ("num_classes", "parent", "name")]
    return {f.name: preset.get(f.name, f.default) for f in fields}


def create(name: str, num_classes: int, **chosen: Any) -> Network:
    """A network as a linen module, called `module.apply(variables, images, train=False)`.

    Args:
        name: one of `names()`.
        num_classes: K, the number of logits.
        **chosen: options of that network (see `options`), plain values; `mean` and `std` per channel normalise inside
            the network, `dtype` ("bfloat16") sets the precision of the computation.

    Returns:
        A linen module, hashable, equal to any other made with the same arguments.

    Raises:
        InputError: an unknown name or option, or a value that the option cannot take.
    """
    known = options(name)
    for option in chosen:
        if option not in known:
            raise unknown(f"option of network {name}", option, known)
    if num_classes < 1:
        raise InputError(f"num_classes must be at least 1, not {num_classes}")
    merged = {key: _plain(key, value) for key, value in {**known, **chosen}.items()}
    return _NETWORKS[name][0](num_classes=int(num_classes), **merged)


def _plain(option: str, value: Any) -> Any:
    # A hashable value of one spelling, so that equal networks are equal modules.
    if option == "dtype":
        try:
            dtype = jnp.dtype(value)
        except TypeError:
            raise InputError(f"dtype {value!r} is none; use float32, bfloat16 or float16") from None
        if not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(f"dtype must be a floating-point type such as float32 or bfloat16, not {dtype.name}")
        return dtype.name
    if option in ("mean", "std") and value is not None:
        value = tuple(float(v) for v in value)
        if option == "std" and min(value, default=1.0) <= 0:
            raise InputError(f"std must be positive in every channel, not {value}")
        return value
    return tuple(value) if isinstance(value, (list, tuple)) else value


def init(module: Any, key: jax.Array, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Fresh variables of a network.

    Args:
        module: a linen module.
        key: a PRNG key.
        input_shape: (H, W, C) of an image.

    Returns:
        `{"params": ..., "batch_stats": ...}`, the second empty where there is no BatchNorm.
    """
    variables = jax.jit(module.init)(key, jnp.zeros((1, *input_shape)))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def variable_shapes(module: Any, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What `init` would return, as `jax.ShapeDtypeStruct`s; nothing is computed."""
    return jax.eval_shape(lambda key: init(module, key, input_shape), jax.random.key(0))


def parameter_count(module: Any, input_shape: tuple[int, int, int]) -> int:
    """The number of trained parameters (running statistics not counted)."""
    params: Mapping[str, Any] = variable_shapes(module, input_shape)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
