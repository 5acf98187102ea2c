"""How the programs that cost the time are compiled on CPU: with XLA's own convolutions.

XLA's CPU backend hands single convolutions to YNNPACK by default. In a program with gradients its own are faster: an
adversarial training step 1.1 to 1.7 times, the input gradient of an unpadded network up to 2.6 times on jax 0.10
(docs/performance.md). Programs that you compile yourself get the same with

    jax.jit(function, compiler_options=advjax.compiling.options())
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

# Only graphs that hang on a matrix product go to YNNPACK, such as a whole forward, which it computes in tiles.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


@functools.cache
def options() -> dict[str, str] | None:
    """`compiler_options` for `jax.jit`; None on other backends, and where XLA does not know them."""
    if jax.default_backend() != "cpu":
        return None
    try:
        # The option is experimental: a later jaxlib may drop it, and then refuses to compile.
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return CPU_OPTIONS


def jit(function: Callable[..., Any], **arguments: Any) -> Callable[..., Any]:
    """`jax.jit(function, **arguments)` with these options, not to be called inside another transformation."""

    # The backend is not known, and must not be started, while modules are imported.
    @functools.cache
    def compiled() -> Callable[..., Any]:
        return jax.jit(function, compiler_options=options(), **arguments)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call


class Mapped:
    """A mapped function (`jax.pmap` takes no such options by itself), compiled with them on its first call.

    Args:
        mapped: what `jax.pmap` or `jax.jit` returned. Calls after the first have the same shapes.

    Attributes:
        program: the compiled function; None before the first call.
    """

    def __init__(self, mapped: Any) -> None:
        self._mapped = mapped
        self.program: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """The result of `mapped`."""
        if self.program is None:
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
                return self._mapped(*args)
            self.program = self.lower(*args).compile(compiler_options=options())
        return self.program(*args)

    def lower(self, *args: Any) -> Any:
        """The lowered `mapped`, as `jax.jit(...).lower` gives it, for arguments of these shapes."""
        return self._mapped.lower(*args)
