"""Devices: the only module that knows how a step is mapped over them.

`pmap` is a thin layer over `jit` and `shard_map` since JAX 0.8. Steps are written as per-device functions with the
named axis `AXIS`, so that either maps them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advjax import compiling
from advjax.errors import InputError, unknown

AXIS = "devices"


def local_devices(count: int = 0) -> list[jax.Device]:
    """The first `count` devices of this host; all for 0.

    Raises:
        InputError: there are fewer.
    """
    found = jax.local_devices()
    if not 0 <= count <= len(found):
        raise InputError(f"must be between 0 (all) and {len(found)}, it is {count}", "devices")
    return found[: count or len(found)]


def check_batch_size(batch_size: int, devices: Sequence[jax.Device]) -> None:
    """Raises `InputError` unless the global batch can be cut evenly over the devices."""
    if batch_size < 1 or batch_size % len(devices):
        raise InputError(f"must be a positive multiple of the {len(devices)} devices, it is {batch_size}", "batch_size")


MAPPINGS = ("pmap", "shard_map")


def map_step(function: Callable, devices: Sequence[jax.Device], mapping: str = "pmap") -> compiling.Mapped:
    """A per-device step `(state, *common, shares) -> (state, metrics)` with the named axis `AXIS`, as one function.

    The first and the common arguments and the results are the same on all devices and are passed once (`replicate`);
    `shares` has a leading axis of devices (`split`). The first argument is donated. To be called with one set of shapes.

    Args:
        function: the step of one device. `shares` reaches it without the leading axis.
        devices: where it runs.
        mapping: `"pmap"`, or `"shard_map"` over a mesh under `jit`; both make the same program.

    Raises:
        InputError: another mapping.
    """
    if mapping not in MAPPINGS:
        raise unknown("mapping", mapping, MAPPINGS, "mapping")
    count = len(inspect.signature(function).parameters)
    if mapping == "pmap":
        axes = (*[None] * (count - 1), 0)
        mapped = jax.pmap(
            function, axis_name=AXIS, devices=list(devices), in_axes=axes, out_axes=None, donate_argnums=0
        )
        return compiling.Mapped(mapped)

    def of_share(*args):
        return function(*args[:-1], jax.tree.map(lambda leaf: leaf[0], args[-1]))

    specs = (*[PartitionSpec()] * (count - 1), PartitionSpec(AXIS))
    sharded = jax.shard_map(of_share, mesh=_mesh(devices), in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return compiling.Mapped(jax.jit(sharded, donate_argnums=0))


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """The same arrays on every device, for the common arguments of a mapped step and for functions under `jit`."""
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def split(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Arrays [devices, ...], a row to each device, for the last argument of a mapped step."""
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec(AXIS)))


def shares(tree: Any, devices: Sequence[jax.Device], axis: int = 0) -> Any:
    """Host arrays whose `axis` is a whole batch as [devices, ...], cut in order: what `split` takes."""

    def cut(leaf):
        return np.stack(np.split(np.asarray(leaf), len(devices), axis))

    return jax.tree.map(cut, tree)


def psum(tree: Any) -> Any:
    """Sum over devices, inside a function mapped by `map_step`."""
    return jax.lax.psum(tree, AXIS)


def pmax(tree: Any) -> Any:
    """Maximum over devices, inside a function mapped by `map_step`; no gradient flows through it."""
    return jax.lax.pmax(jax.lax.stop_gradient(tree), AXIS)


def shard_batch(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Arrays [B, ...] laid out over the devices along B, a multiple of their number, for functions under `jit`."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec(AXIS)))


def replicate_for_jit(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Arrays on every device, without a leading axis, for functions under plain `jit`."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


@jax.jit
def add(total: Any, more: Any) -> Any:
    """Adds two pytrees leaf by leaf, wherever they live."""
    return jax.tree.map(jnp.add, total, more)
