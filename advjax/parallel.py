"""Devices: the only module that knows how a step is mapped over them.

`pmap` is a thin layer over `jit` and `shard_map` since JAX 0.8. Steps are written as per-device functions with the
named axis `AXIS`, so that another mapping could take its place here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advjax import compiling
from advjax.errors import InputError

AXIS = "devices"


def local_devices(count: int = 0) -> list[jax.Device]:
    """The first `count` devices of this host; all for 0.

    Raises:
        InputError: there are fewer.
    """
    found = jax.local_devices()
    if not 0 <= count <= len(found):
        raise InputError(f"devices must be between 0 (all) and {len(found)}, it is {count}")
    return found[: count or len(found)]


def check_batch_size(batch_size: int, devices: Sequence[jax.Device]) -> None:
    """Raises `InputError` unless the global batch can be cut evenly over the devices."""
    if batch_size < 1 or batch_size % len(devices):
        raise InputError(f"batch_size must be a positive multiple of the {len(devices)} devices, it is {batch_size}")


def pmap(function: Callable, devices: Sequence[jax.Device], **options: Any) -> Callable:
    """`function`, per device, with the named axis `AXIS`; arguments and results have a leading axis of devices.

    To be called with one set of shapes.
    """
    return compiling.Mapped(jax.pmap(function, axis_name=AXIS, devices=list(devices), **options))


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """A copy of every leaf on every device, with the leading axis of devices that `pmap` wants."""
    sharding = NamedSharding(_mesh(devices), PartitionSpec(AXIS))

    def copy(leaf):
        leaf = jnp.asarray(leaf) if not isinstance(leaf, np.ndarray) else leaf
        shards = [jax.device_put(leaf[None], device) for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *leaf.shape), sharding, shards)

    return jax.tree.map(copy, tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy of every leaf, without the leading axis and without a trip to the host."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], tree)


def psum(tree: Any) -> Any:
    """Sum over devices, inside a function mapped by `pmap`."""
    return jax.lax.psum(tree, AXIS)


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
