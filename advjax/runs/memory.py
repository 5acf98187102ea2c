"""Memory: what there is, and one line where it runs out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import jax

from advjax.errors import InputError
from advjax.runs.schema import Config


def of_each(devices: Sequence[jax.Device]) -> int:
    """Bytes that each device may use; simulated ones share the machine's."""
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)


@contextlib.contextmanager
def enough(advice: str) -> Iterator[None]:
    """Says in one line what to change where a device's memory runs out.

    Raises:
        InputError: it did.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"the device's memory ran out: {advice}") from error


def for_training(config: Config) -> str:
    """What to change for a step that needs less."""
    return (
        f"lower batch_size, it is {config.batch_size}, or raise microbatches, it is {config.microbatches} (what a step "
        "needs, --dry_run says)"
    )


def for_evaluation(batch_size: int) -> str:
    """What to change for an attack that needs less."""
    return f"lower evaluation.batch_size (--batch_size), it is {batch_size or '0, what suits the machine'}"
