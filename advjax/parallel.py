"""Devices: the only module that knows how work is laid out over them, a step's and an attack's.

`pmap` is a thin layer over `jit` and `shard_map` since JAX 0.8. Steps are written as per-device functions with the
named axis `AXIS`, so that either maps them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from advjax import compiling, hosts
from advjax.errors import InputError, shown, unknown

AXIS = "devices"
MOST_ROWS = 1_000_000  # of a batch of images that are evaluated


def local_devices(count: int = 0) -> list[jax.Device]:
    """The first `count` devices of this host; all for 0.

    Raises:
        InputError: there are fewer.
    """
    found = jax.local_devices()
    if not 0 <= count <= len(found):
        raise InputError(f"must be between 0 (all) and {len(found)}, it is {count}", "devices")
    return found[: count or len(found)]


def run_devices(count: int = 0) -> list[jax.Device]:
    """The first `count` devices of every process of this run (`advjax.hosts`), process by process; all for 0.

    Raises:
        InputError: this one has fewer.
    """
    if hosts.count() == 1:
        return local_devices(count)
    local_devices(count)
    found = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    of_each = itertools.groupby(found, lambda device: device.process_index)
    return [device for _, own in of_each for device in list(own)[: count or None]]


def processes(devices: Sequence[jax.Device]) -> list[int]:
    """The processes that devices belong to, ascending."""
    return sorted({device.process_index for device in devices})


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
        mapping: `"pmap"`, or `"shard_map"` over a mesh under `jit`; both make the same program. Devices of several
            processes always take the latter.

    Raises:
        InputError: another mapping.
    """
    if mapping not in MAPPINGS:
        raise unknown("mapping", mapping, MAPPINGS, "mapping")
    count = len(inspect.signature(function).parameters)
    if mapping == "pmap" and len(processes(devices)) == 1:
        axes = (*[None] * (count - 1), 0)
        mapped = jax.pmap(
            function, axis_name=AXIS, devices=list(devices), in_axes=axes, out_axes=None, donate_argnums=0
        )
        return compiling.Mapped(mapped, devices)

    def of_share(*args):
        return function(*args[:-1], jax.tree.map(lambda leaf: leaf[0], args[-1]))

    specs = (*[PartitionSpec()] * (count - 1), PartitionSpec(AXIS))
    sharded = jax.shard_map(of_share, mesh=_mesh(devices), in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return compiling.Mapped(jax.jit(sharded, donate_argnums=0), devices)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """The same arrays on every device, for the common arguments of a mapped step and for functions under `jit`."""
    return _put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def split(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Arrays [devices, ...], a row to each device, for the last argument of a mapped step.

    Of devices of several processes, each puts the rows of its own where they belong and never looks at the others.
    """
    return _put(tree, NamedSharding(_mesh(devices), PartitionSpec(AXIS)))


def share_of(devices: Sequence[jax.Device]) -> tuple[int, int]:
    """(index, number): which of how many equal parts of a batch is for the devices of this process; cut in order.

    Raises:
        InputError: the processes have different numbers of devices.
    """
    number, own = len(processes(devices)), len(Devices(devices).own.devices)
    if own * number != len(devices):
        raise InputError(
            f"must be the same on every host, here {own} of all {len(devices)} on {number} hosts", "devices"
        )
    return processes(devices).index(jax.process_index()), number


def split_own(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """`split` of arrays that have the rows of this process's devices only, [own devices, ...]."""
    sharding = NamedSharding(_mesh(devices), PartitionSpec(AXIS))

    def whole(leaf):
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), (len(devices), *leaf.shape[1:]))

    return jax.tree.map(whole, tree)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _put_own(leaf, sharding), tree)


def _put_own(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """This process's part of an array over the devices of several, each of which has the whole."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    whole = np.asarray(leaf)
    whole = whole.astype(jax.dtypes.canonicalize_dtype(whole.dtype), copy=False)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def here(tree: Any) -> Any:
    """Arrays that are the same on the devices of several processes, on the first of this one's; others as they are."""

    def own(leaf):
        several = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        return leaf.addressable_data(0) if several else leaf

    return jax.tree.map(own, tree)


@functools.cache
def _most(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda rows: jnp.max(rows, 0), out_shardings=sharding)


def most(values: Sequence[int], devices: Sequence[jax.Device]) -> jax.Array:
    """The largest of each of some small integers over all processes of these devices, on its way.

    All processes call it in the same order, and see the same once they look at it.
    """
    rows = np.broadcast_to(np.asarray(values, np.int32), (len(devices), len(values)))
    return _most(NamedSharding(_mesh(devices), PartitionSpec()))(split(rows, devices))


def described(tree: Any, devices: Sequence[jax.Device], *, by_rows: bool = False) -> Any:
    """Shapes and types in place of the arrays that `replicate`, or `by_rows` `split`, would place; nothing is computed."""
    sharding = NamedSharding(_mesh(devices), PartitionSpec(AXIS) if by_rows else PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


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


@jax.jit
def add(total: Any, more: Any) -> Any:
    """Adds two pytrees leaf by leaf, wherever they live."""
    return jax.tree.map(jnp.add, total, more)


@dataclasses.dataclass(frozen=True)
class Spread:
    """A function of (i, state, examples, oracle, key) whose state and examples lie over a mesh by rows.

    Each device runs the program of its own share; equal for equal functions and meshes.
    """

    body: Callable[..., Any]
    mesh: Mesh

    def __call__(self, i, state, examples, oracle, key):
        batch, everywhere = PartitionSpec(AXIS), PartitionSpec()
        return jax.shard_map(
            self.body,
            mesh=self.mesh,
            in_specs=(everywhere, batch, batch, everywhere, everywhere),
            out_specs=batch,
            check_vma=False,
        )(jnp.asarray(i), state, examples, oracle, key)


class Devices:
    """Where the batches of functions under `jit` live: over some devices by rows, or on the only one.

    Args:
        devices: those to use; all local ones if absent.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self.devices = list(devices or local_devices())

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def processes(self) -> list[int]:
        """The processes that they belong to, ascending."""
        return processes(self.devices)

    @property
    def own(self) -> Devices:
        """Those of this process alone."""
        return Devices([device for device in self.devices if device.process_index == jax.process_index()])

    @property
    def mesh(self) -> Mesh:
        """Their mesh, of the one axis `AXIS`."""
        return _mesh(self.devices)

    def batch_size(self, asked: int) -> int:
        """The rows of a batch: `asked`, or where it is 0 what suits the devices.

        On CPU that is 128 for each: beyond it, the memory of a small network's gradient is no longer kept from call to
        call, and fetching it anew from the system takes a sixth of the time; larger networks do not mind. Elsewhere 512,
        which a TPU's lanes, 128 of them, divide.

        Raises:
            InputError: it is no whole number, negative, or beyond `MOST_ROWS`.
        """
        if isinstance(asked, bool) or not isinstance(asked, numbers.Integral) or asked < 0:
            raise InputError(f"batch_size must be at least 1, or 0 for what suits the machine; it is {asked!r}")
        if asked > MOST_ROWS:
            raise InputError(f"batch_size must be at most {MOST_ROWS:,}, it is {shown(asked)}")
        return int(asked) or (128 if self.devices[0].platform == "cpu" else 512) * len(self)

    def round_up(self, rows: int) -> int:
        """The least multiple of the number of devices that is not below `rows`."""
        return -(-rows // len(self)) * len(self)

    def sizes(self, batch_size: int, most: int) -> list[int]:
        """The static batch sizes, largest first, each a multiple of the number of devices.

        The largest is `batch_size`, or less where that takes no more batches for all the work: on CPU in steps of a
        sixteenth, on accelerators, which compile longer, in halves, so that calls with different work share their
        programs. The others are its halves.

        Args:
            batch_size: what the user asked for.
            most: number of rows that there ever is work for.
        """
        batches = max(-(-most // batch_size), 1)
        even = -(-most // batches)
        if self.devices[0].platform == "cpu":
            step = -(-batch_size // 16)
            top = max(min(batch_size, -(-even // step) * step), 1)
        else:
            top = min(rows for level in range(21) if (rows := -(-batch_size // 2**level)) >= min(even, batch_size))
        sizes = {self.round_up(-(-top // 2**level)) for level in range(4)}
        return sorted((size for size in sizes if size >= min(top, 8)), reverse=True)

    def spread(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """`body`, spread over the devices if there are several."""
        return Spread(body, self.mesh) if len(self) > 1 else body

    def shard(self, tree: Any) -> Any:
        """[B, ...] arrays, spread over the devices by rows; B is a multiple of their number."""
        return self._put(tree, PartitionSpec(AXIS))

    def replicate(self, tree: Any) -> Any:
        """Arrays, on every device, without a leading axis."""
        return self._put(tree, PartitionSpec())

    def described(self, tree: Any, *, by_rows: bool = False) -> Any:
        """Shapes and types in place of the arrays that `replicate`, or `by_rows` `shard`, would place."""
        place = self._place(PartitionSpec(AXIS) if by_rows else PartitionSpec())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        return jax.device_put(tree, self._place(spec))

    def _place(self, spec: PartitionSpec) -> Sharding:
        return SingleDeviceSharding(self.devices[0]) if len(self) == 1 else NamedSharding(self.mesh, spec)
