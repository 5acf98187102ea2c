"""What a program needs that depends on the kind of machine it is for, decided here and nowhere else.

`platform()` says which machine that is: the process's default one, or, inside `for_devices` or `target`, another, such as
a TPU for which a program is lowered on a machine without any. Networks ask it for the convolution to take, attacks
whether their loop runs on the device or on the host, and `options` how to compile.

XLA's CPU backend hands single convolutions to YNNPACK by default. In a program with gradients its own are faster: an
adversarial training step 1.1 to 1.7 times, the input gradient of an unpadded network up to 2.6 times on jax 0.10
(docs/performance.md). Programs that you compile yourself get the same with

    jax.jit(function, compiler_options=advjax.compiling.options())
"""

from __future__ import annotations

import contextlib
import functools
import gc
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

# Only graphs that hang on a matrix product go to YNNPACK, such as a whole forward, which it computes in tiles.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


class _Target:
    """The platform that was asked for, for releases of JAX without contexts that are part of `jit`'s key."""

    def __init__(self) -> None:
        self.value: str | None = None

    @contextlib.contextmanager
    def __call__(self, value: str | None) -> Iterator[None]:
        before, self.value = self.value, value
        if before != value:
            jax.clear_caches()
        try:
            yield
        finally:
            self.value = before
            if before != value:
                jax.clear_caches()


# Part of the key under which `jit` keeps programs, so that none made for one platform is taken for another.
_target = jax.make_user_context(default_value=None) if hasattr(jax, "make_user_context") else _Target()


def platform() -> str:
    """`"cpu"`, `"gpu"` or `"tpu"`: what the program that is being traced, or is about to be, will run on."""
    return _target.value or jax.default_backend()


def target(name: str) -> contextlib.AbstractContextManager[Any]:
    """A context in which programs are traced, lowered and compiled for this platform, whatever the machine has."""
    # None for the usual case, so that it shares its programs with whoever enters no context.
    return _target(None if name == jax.default_backend() else name)


def for_devices(devices: Sequence[jax.Device]) -> contextlib.AbstractContextManager[Any]:
    """`target` of the platform of these devices, of one kind."""
    return target(devices[0].platform)


def for_arrays(*trees: Any) -> contextlib.AbstractContextManager[Any]:
    """`for_devices` of where the first array lies; changes nothing where there is none, under a transformation, say."""
    leaves = jax.tree.leaves(trees)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return contextlib.nullcontext()
    found = next((leaf.devices() for leaf in leaves if isinstance(leaf, jax.Array)), None)
    return for_devices(list(found)) if found else contextlib.nullcontext()


PRECISIONS = ("default", "high", "highest")


def products(precision: str) -> contextlib.AbstractContextManager[Any]:
    """A context in which convolutions and matrix products of float32 have this precision.

    What XLA takes by default is one pass of bfloat16 on a TPU and TF32 on NVIDIA's GPUs, 8 and 11 significant bits for
    the 24 of float32; `"high"` is three passes, or TF32; `"highest"` six, or float32. A CPU always multiplies in float32,
    and its programs stay as they are. A precision that the user gave JAX (`jax.default_matmul_precision`) stands.
    """
    if precision == "default" or asked_for() or platform() == "cpu":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


def asked_for() -> str | None:
    """The precision of float32's products that the user gave JAX, by its context manager, flag or environment."""
    return jax.default_matmul_precision.value


@contextlib.contextmanager
def scoring(devices: Sequence[jax.Device]) -> Iterator[None]:
    """`for_devices` for whatever gives verdicts: float32 is multiplied in float32."""
    with for_devices(devices), products("highest"):
        yield


def options() -> dict[str, str] | None:
    """`compiler_options` for `jax.jit`; None on other backends than CPU, and where XLA does not know them."""
    return CPU_OPTIONS if platform() == "cpu" and known() else None


@functools.cache
def known() -> bool:
    """Whether this jaxlib knows `CPU_OPTIONS`."""
    try:
        # The option is experimental: a later jaxlib may drop it, and then refuses to compile.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


# What an accelerator multiplies in float32 while a program is compiled for it: on an H100, where cuDNN's kernels are tried
# out one by one, the loop of an attack takes 4 to 11 s even of a small network (docs/performance.md).
# Ten seconds at 20 TFLOP/s, which are assumed, not measured.
PROGRAM = 2e14


def pays(flops: float) -> bool:
    """Whether a program is worth compiling to save this arithmetic; on CPU, where it takes a second, always."""
    return platform() == "cpu" or flops > PROGRAM


def mappings() -> int:
    """How many mappings of memory this process has; 0 where the system does not say."""
    maps = pathlib.Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def forget_programs(most: int = 16_000) -> None:
    """Lets go of all compiled programs if the process has more mappings of memory than this.

    A program of XLA:CPU takes one to three hundred, and Linux ends a process that wants more than 65,530: a few hundred
    programs, as many runs one after the other compile. Those in the cache on disk are found again.
    """
    if mappings() > most:
        jax.clear_caches()
        gc.collect()


class Jitted:
    """A jitted function, compiled with `options()` for whatever platform it is called for.

    Args:
        function: what `jax.jit` takes.
        **arguments: of `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], **arguments: Any) -> None:
        self._function, self._arguments = function, arguments
        self._programs: dict[str, Any] = {}
        functools.update_wrapper(self, function)

    def _program(self) -> Any:
        # The backend is not known, and must not be started, while modules are imported.
        if platform() not in self._programs:
            self._programs[platform()] = jax.jit(self._function, compiler_options=options(), **self._arguments)
        return self._programs[platform()]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program()(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit(...).lower`."""
        return self._program().lower(*args, **kwargs)


def jit(function: Callable[..., Any], **arguments: Any) -> Jitted:
    """`jax.jit(function, **arguments)` with these options, not to be called inside another transformation."""
    return Jitted(function, **arguments)


class Mapped:
    """A mapped function (`jax.pmap` takes no such options by itself), compiled with them on its first call.

    Args:
        mapped: what `jax.pmap` or `jax.jit` returned. Calls after the first have the same shapes.
        devices: where it runs, which says what it is compiled for.

    Attributes:
        program: the compiled function; None before the first call.
    """

    def __init__(self, mapped: Any, devices: Sequence[jax.Device]) -> None:
        self._mapped, self._devices = mapped, devices
        self.program: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """The result of `mapped`."""
        if self.program is None:
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
                return self._mapped(*args)
            with for_devices(self._devices):
                self.program = self.lower(*args).compile(compiler_options=options())
        return self.program(*args)

    def lower(self, *args: Any) -> Any:
        """The lowered `mapped`, as `jax.jit(...).lower` gives it, for arguments of these shapes."""
        with for_devices(self._devices):
            return self._mapped.lower(*args)
