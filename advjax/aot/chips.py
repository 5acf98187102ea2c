"""Chips that programs can be compiled for where there is none: what their makers publish, and XLA's devices for them."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from advjax.errors import InputError, unknown


class Chip(NamedTuple):
    """One accelerator, as its maker describes it.

    Attributes:
        platform: XLA's name for its kind, `"tpu"` or `"gpu"`.
        memory: bytes.
        bandwidth: of that memory, bytes a second.
        rates: operations a second of products by (type of the inputs, XLA's precision).
        topology: the least slice, as `jax.experimental.topologies` names it.
    """

    platform: str
    memory: int
    bandwidth: float
    rates: dict[tuple[str, str], float]
    topology: str = ""

    @property
    def usable(self) -> int:
        """Bytes that XLA gives to a program; the rest the runtime keeps."""
        return self.memory * 63 // 64

    def seconds(self, flops: float, dtype: str, precision: str = "default") -> float:
        """The least time for products of these inputs."""
        return flops / self.rates.get((dtype, precision), self.rates[(dtype if dtype in _TYPES else "f32", "default")])


_TYPES = ("bf16", "f32")
_GIB = 2**30


def _tpu(tera: float, memory: int, bandwidth: float, topology: str) -> Chip:
    # A TPU multiplies bfloat16. Of float32 it takes one pass at the default precision, three at high, six at highest.
    passes = {("f32", "default"): 1, ("f32", "high"): 3, ("f32", "highest"): 6}
    passes |= {("bf16", precision): 1 for precision in ("default", "high", "highest")}
    rates = {kind: tera * 1e12 / count for kind, count in passes.items()}
    return Chip("tpu", memory * _GIB, bandwidth * 1e9, rates, topology)


def _gpu(memory: int, bandwidth: float) -> Chip:
    # H100 SXM and H200, without sparsity: bfloat16, TF32 (what XLA takes for float32 by default), float32.
    rates = {("f32", "default"): 494.7e12, ("f32", "high"): 494.7e12, ("f32", "highest"): 66.9e12}
    rates |= {("bf16", precision): 989.4e12 for precision in ("default", "high", "highest")}
    return Chip("gpu", memory, bandwidth * 1e9, rates)


# A chip that JAX shows as one device. cloud.google.com/tpu/docs/system-architecture-tpu-vm and NVIDIA's data sheets.
CHIPS = {
    "v5e": _tpu(197, 16, 819, "1x1"),
    "v5p": _tpu(459, 95, 2765, "2x2x1"),
    "v6e": _tpu(918, 32, 1640, "1x1"),
    "h100": _gpu(84_942_979_072, 3352),
    "h200": _gpu(150_000_000_000, 4800),
}


def parse(target: str) -> tuple[str, tuple[int, ...]]:
    """The chip's name and the slice's sides, of `v5e:2x2`; no sides where none are given.

    Raises:
        InputError: no such chip, or no such slice.
    """
    name, colon, sides = target.partition(":")
    if name not in CHIPS:
        raise unknown("target", target, [f"{n}{':2x2' if c.platform == 'tpu' else ''}" for n, c in CHIPS.items()])
    if not colon:
        return name, ()
    if CHIPS[name].platform != "tpu" or not re.fullmatch(r"\d+(x\d+){1,2}", sides):
        raise InputError(f"must be one chip or a TPU's slice, such as v5e:2x2; it is {target!r}", "target")
    return name, tuple(map(int, sides.split("x")))


def prepare() -> None:
    """To be called before JAX starts its backends: the CPU is the only one that runs anything."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # or a second process ends at libtpu's lock
    jax.config.update("jax_platforms", "cpu")
    # A program for a device that is not there can be kept, but not be read again.
    jax.config.update("jax_enable_compilation_cache", False)


def devices(target: str) -> list[jax.Device]:
    """Devices that programs can be lowered and compiled for, and that nothing can run on.

    Args:
        target: a name of `CHIPS`, for one chip, or a TPU with the sides of a slice, `v5e:2x2`.

    Raises:
        InputError: no such target, or the compiler is not installed.
    """
    name, sides = parse(target)
    chip = CHIPS[name]
    if chip.platform == "gpu":
        return _gpus(name)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError('needs libtpu, which compiles for TPUs: pip install "advjax[tpu-aot]"', "target")
    shape = "x".join(map(str, sides)) or chip.topology
    try:
        found = list(topologies.get_topology_desc(f"{name}:{shape}", "tpu").devices)
    except Exception as error:
        raise InputError(
            f"XLA's TPU compiler knows no slice {target!r}: {str(error).splitlines()[0]}", "target"
        ) from error
    return found if sides else found[:1]


def _gpus(name: str) -> list[jax.Device]:
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise InputError(
            "needs JAX's CUDA plugin: pip install jax-cuda12-plugin jax-cuda12-pjrt, as old as jaxlib", "target"
        )
    topology = topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=_target_config(name))
    return list(topology.devices)


def _target_config(name: str) -> str:
    """XLA's description of a Hopper GPU, as text of a protocol buffer; a driver that is there says the same."""
    chip = CHIPS[name]
    info = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "threads_per_core_limit": 2048,
        "shared_memory_per_block": 48 << 10, "shared_memory_per_core": 228 << 10,
        "shared_memory_per_block_optin": 227 << 10, "core_count": 132, "fpus_per_core": 128,
        "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 2**16 - 1, "block_dim_limit_z": 2**16 - 1,
        "thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024, "thread_dim_limit_z": 64,
        "registers_per_core_limit": 1 << 16, "registers_per_block_limit": 1 << 16,
        "memory_bandwidth": int(chip.bandwidth), "l2_cache_size": 50 << 20, "clock_rate_ghz": 1.98,
        "device_memory_size": chip.memory, "device_address_bits": 64,
        "device_vendor": '"NVIDIA Corporation"', "name": f'"NVIDIA {name.upper()}"',
        "runtime_version": '"12.8.0"', "compile_time_toolkit_version": '"12.8.0"', "dnn_version": '"9.8.0"',
    }  # fmt: skip
    fields = " ".join(f"{field}: {value}" for field, value in info.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "NVIDIA {name.upper()}"'
    )
