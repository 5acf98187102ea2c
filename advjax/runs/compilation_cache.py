"""Compiled programs on disk (JAX's persistent compilation cache), so that a command's second start compiles nothing."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

import jax

from advjax.errors import InputError
from advjax.files import users_cache

MAX_BYTES = 4 * 2**30  # the programs used longest ago go first
MIN_COMPILE_SECONDS = 0.2  # what compiles faster is not worth a file


def enable(where: str) -> None:
    """Lets JAX keep compiled programs, from the next compilation on.

    Args:
        where: `config.compilation_cache`: `"auto"`, a folder of the user's cache directory, unless
            JAX_COMPILATION_CACHE_DIR says otherwise; `"off"`; or a folder.

    Raises:
        InputError: the folder cannot be written to.
    """
    if where == "off":
        return jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    if where == "auto" and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    folder = users_cache() / "programs" if where == "auto" else pathlib.Path(where)
    folder = folder / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        if where == "auto":
            return None  # a home that is not writable: compile anew each time
        raise InputError(
            f"compilation_cache must be auto, off or a folder that can be written to, {where} cannot: {error.strerror}"
        ) from None
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    return jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """Names the kind of processor: programs of XLA:CPU are native code, and several machines may share a folder."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        kind = [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *kind]).encode()).hexdigest()[:12]
