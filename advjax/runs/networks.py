"""From a config to its method and the networks that it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from advjax import methods, models
from advjax.errors import InputError, unknown, within
from advjax.methods import Method
from advjax.runs.schema import Config


def create_method(config: Config) -> Method:
    """The method that `config.method` and `config.attack` describe.

    Raises:
        InputError: no such method or hyperparameter, or a value that it cannot take.
    """
    values = dict(config.method)
    with within("method."):
        if "attack" in values:
            raise InputError("is no hyperparameter: the attack has a group of its own, `attack`", "attack")
        return methods.create(values.pop("name"), config.attack, **values)


def create_modules(config: Config, method: Method, num_classes: int) -> dict[str, nn.Module]:
    """name -> module of every network that the method trains or averages."""
    names = {*method.trained, *method.averaged}
    for name, options in config.networks.items():
        if not options.get("name") and any(value not in UNSET for value in options.values()):
            raise InputError("is empty, so its other fields say nothing: name the network", f"networks.{name}.name")
        if options.get("name") and name not in names:
            raise unknown("network of this method", name, sorted(names), f"networks.{name}")
    places = {name: network_options(config, method.averaged.get(name, name)) for name in sorted(names)}
    return {
        name: create_network(options, num_classes, config.precision, field) for name, (field, options) in places.items()
    }


def network_options(config: Config, name: str) -> tuple[str, Mapping[str, Any]]:
    """Where the config describes a network, and how: `networks.NAME` where it names one, `network` otherwise."""
    named = config.networks.get(name, {})
    return (f"networks.{name}", named) if named.get("name") else ("network", config.network)


# An option with one of these values is the network's own.
UNSET: tuple[Any, ...] = (0, (), [], None, "")


def create_network(options: Mapping[str, Any], num_classes: int, precision: str, field: str = "network") -> nn.Module:
    """The network that a group of the config describes; an option left at 0 or () is the network's own default.

    Raises:
        InputError: no such network or option, or a value that it cannot take; names `field`.
    """
    chosen = {key: value for key, value in options.items() if isinstance(value, bool) or value not in UNSET}
    for own, said in (("dtype", "precision"), ("num_classes", "data.num_classes")):
        if own in chosen:
            raise InputError(f"is no option here: `{said}` says it", f"{field}.{own}")
    try:
        return models.create(chosen.pop("name", ""), num_classes, dtype=precision, **chosen)
    except InputError as error:
        raise InputError(f"{field}: {error}") from None


def check_fits(name: str, module: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Raises `InputError` if a network cannot take such images."""
    try:
        models.variable_shapes(module, image_shape)
    except InputError as error:
        raise InputError(f"network {name}: {error}") from None
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"network {name} ({type(module).__name__}) does not take images {image_shape}: {reason}"
        ) from error
