"""DeepMind's Haiku checkpoints of Wide ResNets (`.npy`), read without executing what they hold.

The layout follows from their public code (`adversarial_robustness/jax`): the file is `np.save` of `(params, state)`,
two mappings from module paths to mappings from names to arrays, and the paths follow from the modules' names by
Haiku's rules. A network of these names, made and saved with dm-haiku 0.0.17, gave the same logits here; one of the
published files was not at hand.
"""

from __future__ import annotations

import pathlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.errors import InputError


def _jax_array(function: Any, args: tuple, state: Any, aval_state: Any) -> np.ndarray:
    # How JAX pickles its arrays: as the parts of a NumPy array and what else it knows about them.
    del aval_state
    array = function(*args)
    array.__setstate__(state)
    return array


_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED = {
    ("multiarray", "_reconstruct"): _RECONSTRUCT,
    ("multiarray", "scalar"): _SCALAR,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("array", "_reconstruct_array"): _jax_array,
    ("device_array", "reconstruct_device_array"): _jax_array,
    # Haiku's own mappings are pickled as their class and a plain mapping.
    ("data_structures", "FlatMapping"): dict,
    ("data_structures", "FlatMap"): dict,
    ("data_structures", "frozendict"): dict,
}
_LEAVES = {"w": "weight", "b": "bias", "scale": "weight", "offset": "bias"}


class _Unpickler(pickle.Unpickler):
    """Builds arrays and mappings, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = module.split(".")[0] in ("numpy", "haiku", "jax", "collections")
        allowed = _ALLOWED.get((module.split(".")[-1], name)) if known else None
        if allowed is None:
            asked = ascii(f"{module}.{name}")[1:-1][:80]
            raise InputError(f"it is refused: it asks for {asked}, and nothing in it is executed")
        return allowed


def read_state(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by the names that DeepMind's PyTorch files use, PyTorch's layout.

    Args:
        path: an `.npy` file.

    Returns:
        A state dict of a `wrn_*_swish`, to be checked against the network as any other.

    Raises:
        InputError: the file is no such checkpoint or asks for anything but arrays and mappings.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            _, _, dtype = headers[version](file)
            if not dtype.hasobject:
                raise InputError("it is a plain array, not a checkpoint")
            params, state = _Unpickler(file).load()
        if not isinstance(params, Mapping) or not isinstance(state, Mapping):
            raise InputError("it is no Haiku checkpoint: it does not hold two mappings")
        return _torch_state(params, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a foreign file can fail in any way
        reason = f"it is cut short, damaged or of another kind ({type(error).__name__})"
        raise InputError(f"{path} cannot be read as a Haiku checkpoint: {reason}") from None


def _torch_state(params: Mapping, state: Mapping) -> dict[str, np.ndarray]:
    found = {}
    for module, leaves in params.items():
        for leaf, value in leaves.items():
            value = _array(module, leaf, value)
            if leaf == "w":
                value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
            elif leaf in ("scale", "offset"):
                value = value.ravel()
            found[f"{_name(module)}.{_LEAVES.get(leaf, leaf)}"] = value
    for module, leaves in state.items():
        norm, _, which = module.rpartition("/~/")
        if which in ("mean_ema", "var_ema"):
            # `average` is the moving average with its bias towards zero removed, which Haiku evaluates with
            name = "running_mean" if which == "mean_ema" else "running_var"
            found[f"{_name(norm)}.{name}"] = _array(module, "average", leaves["average"]).ravel()
    return found


def _array(module: str, leaf: str, value: Any) -> np.ndarray:
    # Anything but an array may contain itself.
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{ascii(module)[1:81]}, {ascii(leaf)[1:81]} is no array of floating-point numbers: {kind}")
    with np.errstate(over="ignore"):
        return value.astype(np.float32)


def _name(module: str) -> str:
    # wide_res_net/~/resnet_lay_0_block_1/~/conv_0 -> layer.0.block.1.conv_0
    parts = [part for part in module.split("/")[1:] if part != "~"]
    return re.sub(r"resnet_lay_(\d+)_block_(\d+)", r"layer.\1.block.\2", ".".join(parts))
