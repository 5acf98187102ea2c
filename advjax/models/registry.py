"""Networks by name."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax import plugins
from advjax.errors import InputError, shown, unknown
from advjax.models.adapters import Adapter, ModelAdapter, arguments, from_equinox, from_nnx
from advjax.models.convnext import ConvNeXt
from advjax.models.layers import ImageClassifier
from advjax.models.mobilenet_v2 import MobileNetV2
from advjax.models.normalisation import CIFAR10_MEAN, CIFAR10_STD
from advjax.models.preact_resnet import PreActResNet
from advjax.models.resnet import ResNet
from advjax.models.small_cnn import SmallCNN, TinyCNN
from advjax.models.vit import VisionTransformer
from advjax.models.wide_resnet import DeepMindWideResNet, WideResNet

_THREE_STAGES = {"width": 16, "strides": (1, 2, 2)}
_DEEPMIND = {"mean": CIFAR10_MEAN, "std": CIFAR10_STD}
_NETWORKS: dict[str, tuple[type[ImageClassifier], dict[str, Any]]] = {
    "convnext_t": (ConvNeXt, {}),
    "mobilenet_v2": (MobileNetV2, {}),
    "preact_resnet18": (PreActResNet, {"blocks": (2, 2, 2, 2)}),
    "preact_resnet34": (PreActResNet, {"blocks": (3, 4, 6, 3)}),
    "resnet18": (ResNet, {"blocks": (2, 2, 2, 2)}),
    "resnet18_lbgat": (ResNet, {"blocks": (2, 2, 2, 2), "strides": (1, 1, 2, 2)}),
    "resnet20": (ResNet, {"blocks": (3, 3, 3), **_THREE_STAGES}),
    "resnet32": (ResNet, {"blocks": (5, 5, 5), **_THREE_STAGES}),
    "resnet34": (ResNet, {"blocks": (3, 4, 6, 3)}),
    "resnet44": (ResNet, {"blocks": (7, 7, 7), **_THREE_STAGES}),
    "resnet50": (ResNet, {"blocks": (3, 4, 6, 3), "bottleneck": True}),
    "resnet56": (ResNet, {"blocks": (9, 9, 9), **_THREE_STAGES}),
    "small_cnn": (SmallCNN, {}),
    "tiny_cnn": (TinyCNN, {}),
    "vit": (VisionTransformer, {}),
    "vit_b_16": (VisionTransformer, {"width": 768, "depth": 12, "heads": 12, "patch": 16}),
    "wrn_22_6_swish": (DeepMindWideResNet, {"depth": 22, "width": 6, **_DEEPMIND}),
    "wrn_28_10": (WideResNet, {"depth": 28, "width": 10}),
    "wrn_28_10_swish": (DeepMindWideResNet, {"depth": 28, "width": 10, **_DEEPMIND}),
    "wrn_34_10": (WideResNet, {"depth": 34, "width": 10}),
    "wrn_34_20": (WideResNet, {"depth": 34, "width": 20}),
    "wrn_70_16_swish": (DeepMindWideResNet, {"depth": 70, "width": 16, **_DEEPMIND}),
}


_OURS = ("num_classes", "parent", "name")
_LARGEST = 1_000_000  # of widths, layers and classes: more is a slip


def names() -> tuple[str, ...]:
    """Every network's name, sorted."""
    return tuple(sorted(_NETWORKS))


def options(name: str) -> dict[str, Any]:
    """The options of a network and their defaults, e.g. `{"width": 64, "dtype": "float32", ...}`.

    Args:
        name: one of `names()`, or a network from outside (`create`); an option of it that has no default is None here.

    Raises:
        InputError: no network has that name.
    """
    if name not in _NETWORKS:
        return _arguments(name, _from_outside(name))
    cls, preset = _NETWORKS[name]
    fields = [f for f in dataclasses.fields(cls) if f.name not in _OURS]
    return {f.name: preset.get(f.name, f.default) for f in fields}


def create(name: str, num_classes: int, **chosen: Any) -> nn.Module:
    """A network as a linen module, called `module.apply(variables, images, train=False)`.

    Args:
        name: one of `names()`, or a network from outside: `package.module:Object`, or a name that an installed package
            registers under `advjax.networks`. Object is the class of a linen, NNX or Equinox module, or a function that
            gives a linen module or an adapter (`advjax.models.from_haiku` and its like), called with `num_classes=` and
            the options.
        num_classes: K, the number of logits.
        **chosen: options of that network (see `options`), plain values; `mean` and `std` per channel normalise inside
            the network, `dtype` ("bfloat16") sets the precision of the computation.

    Returns:
        A linen module or an adapter, hashable, equal to any other made with the same arguments.

    Raises:
        InputError: an unknown name or option, or a value that the option cannot take.

    Examples:
        >>> module = create("resnet18", 10, mean=(0.5,), std=(0.25,))
        >>> type(module).__name__, module.num_classes, module.mean
        ('ResNet', 10, (0.5,))
        >>> describe(module)
        ('resnet18', {'mean': (0.5,), 'std': (0.25,)})
        >>> create("resnet81", 10)
        Traceback (most recent call last):
            ...
        advjax.errors.InputError: unknown network 'resnet81'; did you mean ...
    """
    whole = isinstance(num_classes, (int, np.integer)) and not isinstance(num_classes, bool)
    if not whole or not 1 <= num_classes <= _LARGEST:
        raise InputError(f"num_classes must be a whole number from 1 to {_LARGEST:,}, not {shown(num_classes)}")
    if not isinstance(name, str):
        raise InputError(f"must be a network's name, it is {shown(name)}", "name")
    if name not in _NETWORKS:
        return _create_from_outside(name, int(num_classes), chosen)
    known = options(name)
    for option in chosen:
        if option not in known:
            raise unknown(f"option of network {name}", option, known)
    merged = {key: _plain(key, value, known[key]) for key, value in {**known, **chosen}.items()}
    return _NETWORKS[name][0](num_classes=int(num_classes), **merged)


def describe(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """The name of a network and the options in which it differs from the defaults of that name.

    Args:
        module: a network made by `create`.

    Returns:
        (name, options) such that `create(name, module.num_classes, **options)` equals `module`; `package.module:Class`
        for a class from outside.

    Raises:
        InputError: a module that is none of these networks, of a class that no import finds.
    """
    if isinstance(module, Adapter):
        return _describe_adapter(module)
    found = []
    for name, (cls, _) in _NETWORKS.items():
        if cls is type(module):
            found.append((name, _differing(module, options(name))))
    if found:
        return min(found, key=lambda item: len(item[1]))
    name = plugins.reference(type(module))
    return name, _differing(module, _arguments(name, type(module)))


def _differing(module: nn.Module, defaults: Mapping[str, Any]) -> dict[str, Any]:
    own = {option: getattr(module, option) for option in defaults}
    return {option: value for option, value in own.items() if value != defaults[option]}


def _describe_adapter(module: Adapter) -> tuple[str, dict[str, Any]]:
    if module.origin is not None:
        return module.origin
    if not isinstance(module, ModelAdapter):
        raise InputError("a network made of functions has no name: give create() the function that makes it")
    return plugins.reference(module.make), {k: v for k, v in module.options if k != "num_classes"}


def _from_outside(name: str) -> Callable[..., Any]:
    found = plugins.resolve(name, "network", names())
    if not callable(found):
        raise InputError(f"network {name} is a {type(found).__name__}, not a class or function that makes a network")
    return found


def _arguments(name: str, make: Callable[..., Any]) -> dict[str, Any]:
    """The keyword arguments of what makes a network, but for those that every one gets."""
    try:
        parameters = arguments(make)
    except (TypeError, ValueError):
        raise InputError(f"network {name} cannot be asked for its arguments, so it is no network") from None
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if "num_classes" not in (p.name for p in named):
        raise InputError(f"network {name} is no network: it takes no argument num_classes")
    taken = [*_OURS, *(("rngs",) if _is_nnx(make) else ()), *(("key",) if _is_equinox(make) else ())]
    return {p.name: None if p.default is p.empty else p.default for p in named if p.name not in taken}


def _create_from_outside(name: str, num_classes: int, chosen: Mapping[str, Any]) -> nn.Module:
    make = _from_outside(name)
    known = _arguments(name, make)
    # A run always says its precision; whoever knows no dtype computes in float32.
    given = {k: v for k, v in chosen.items() if k != "dtype" or k in known or v != "float32"}
    for option in given:
        if option not in known:
            raise unknown(f"option of network {name}", option, known)
    given = {option: _hashable(value) for option, value in given.items()}
    module: Any
    try:
        if _is_nnx(make):
            module = from_nnx(make, num_classes=num_classes, **given)
        elif _is_equinox(make):
            module = from_equinox(make, num_classes=num_classes, **given)
        else:
            module = make(num_classes=num_classes, **given)
        hash(module if isinstance(module, (nn.Module, Adapter)) else None)
    except InputError:
        raise
    except Exception as error:  # a foreign class can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"network {name} cannot be made: {reason}") from error
    if isinstance(module, Adapter):
        module = dataclasses.replace(module, origin=(name, given))
    elif not isinstance(module, nn.Module):
        kinds = "a linen module or an adapter (advjax.models.from_nnx, from_equinox, from_haiku, from_init_apply)"
        raise InputError(f"network {name} gives a {type(module).__name__}, not {kinds}")
    return module


def _is_nnx(make: Any) -> bool:
    return inspect.isclass(make) and issubclass(make, nnx.Module)


def _is_equinox(make: Any) -> bool:
    # Without importing Equinox, which whoever has such a class has imported.
    return inspect.isclass(make) and any(c.__module__.startswith("equinox.") for c in make.__mro__)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def _plain(option: str, value: Any, default: Any) -> Any:
    # A hashable value of one spelling, so that equal networks are equal modules.
    if option == "dtype":
        return _dtype(value)
    if option in ("mean", "std"):
        if value is None:
            return None
        finite = isinstance(value, (tuple, list)) and all(
            isinstance(v, (int, float)) and abs(v) < 2**127 for v in value
        )
        if not finite:
            raise InputError(f"{option} must be one finite number per channel, not {shown(value)}")
        if option == "std" and min(value, default=1.0) <= 0:
            raise InputError(f"std must be positive in every channel, not {value!r}")
        return tuple(map(float, value))
    if isinstance(default, tuple):
        if not isinstance(value, (tuple, list)) or not all(isinstance(v, int) and v >= 0 for v in value):
            raise InputError(f"{option} must be whole numbers such as {default}, not {value!r}")
        return tuple(value)
    kinds = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise InputError(
            f"{option} must be a value of type {type(default).__name__} such as {default!r}, not {value!r}"
        )
    if option == "dropout" and not 0 <= value < 1:
        raise InputError(f"{option} must be at least 0 and below 1, not {shown(value)}")
    counted = isinstance(value, (int, float)) and not isinstance(value, bool) and option != "dropout"
    if counted and not 0 < value <= _LARGEST:
        raise InputError(f"{option} must be positive and at most {_LARGEST:,}, not {shown(value)}")
    return type(default)(value)


def _dtype(value: Any) -> str:
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise InputError(f"dtype {value!r} is none; use float32, bfloat16 or float16") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"dtype must be a floating-point type such as float32 or bfloat16, not {dtype.name}")
    return dtype.name


def init(module: nn.Module, key: jax.Array, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Fresh variables of a network.

    Args:
        module: a linen module.
        key: a PRNG key. The same key gives the same parameters on every device of one kind.
        input_shape: (H, W, C) of an image.

    Returns:
        `{"params": ..., "batch_stats": ...}`, the second empty where there is no BatchNorm.
    """
    # The default generator takes XLA's CPU compiler half a second and more for every parameter; this one does not.
    fast_key = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2)[:4], impl="rbg")
    variables = _init(module, fast_key, tuple(input_shape))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


@functools.partial(jax.jit, static_argnums=(0, 2))
def _init(module: nn.Module, key: jax.Array, input_shape: tuple[int, int, int]) -> Any:
    return module.init(key, jnp.zeros((1, *input_shape)))


def variable_shapes(module: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What `init` would return, as `jax.ShapeDtypeStruct`s; nothing is computed."""
    return jax.eval_shape(lambda key: init(module, key, input_shape), jax.random.key(0))


def parameter_count(module: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """The number of trained parameters (running statistics not counted)."""
    params: Mapping[str, Any] = variable_shapes(module, input_shape)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
