"""Running attacks over a data set: batches of one static size, over all devices, one outcome per example."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses, parallel
from advjax.attacks.loops import as_partial
from advjax.data import Split, to_float
from advjax.errors import InputError
from advjax.evaluate.protocols import Attack, LogitsFn


class Outcome(NamedTuple):
    """What an attack did to every example.

    Attributes:
        robust: [N] bool, whether the example is still classified correctly.
        seconds: wall-clock time, compilation included.
    """

    robust: np.ndarray
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of examples that are still classified correctly."""
        return float(self.robust.mean())


@jax.jit
def _correct(logits_fn, x, y):
    return losses.correct(logits_fn(x), y) > 0


def attack_key(seed: int, name: str) -> jax.Array:
    """The key of an attack, a function of the seed and the attack's name: no row depends on the rows before it."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def run_attack(
    logits_fn: LogitsFn,
    attack: Attack,
    split: Split,
    *,
    seed: int = 0,
    batch_size: int = 500,
    devices: Sequence[jax.Device] | None = None,
    crafted_on: LogitsFn | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Attacks every example of a split.

    The outcome does not depend on the number of devices, and on `batch_size` only as far as rounding differs between
    programs of different shapes.

    Args:
        logits_fn: the network that is scored, evaluation mode.
        attack: what to run.
        split: uint8 images and labels.
        seed: root of the attack's randomness.
        batch_size: examples at a time, rounded up to a multiple of the devices; the last batch is padded.
        devices: where to run; this host's if absent.
        crafted_on: the network that the examples are crafted on, if another (transfer attack).
        progress: called with the number of examples done.
    """
    devices = devices or parallel.local_devices()
    started = time.perf_counter()
    logits_fn = parallel.replicate_for_jit(as_partial(logits_fn), devices)
    source = logits_fn if crafted_on is None else parallel.replicate_for_jit(as_partial(crafted_on), devices)
    key = parallel.replicate_for_jit(attack_key(seed, attack.name), devices)
    robust = np.zeros(len(split.label), bool)
    for rows, padded in _batches(len(robust), batch_size, len(devices)):
        batch = (to_float(jnp.asarray(split.image[padded])), jnp.asarray(split.label[padded]), jnp.asarray(padded))
        x, y, ids = parallel.shard_batch(batch, devices)
        x_adv = attack.craft(source, key, x, y, ids)
        robust[rows] = np.asarray(_correct(logits_fn, x_adv, y))[: len(rows)]
        progress(int(rows[-1]) + 1)
    return Outcome(robust, time.perf_counter() - started)


def _batches(n: int, batch_size: int, multiple: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, rows padded by repetition to the static size) of every batch."""
    if batch_size < 1:
        raise InputError(f"evaluation.batch_size must be at least 1, it is {batch_size}")
    size = -(-min(batch_size, n) // multiple) * multiple
    for first in range(0, n, size):
        rows = np.arange(first, min(first + size, n), dtype=np.int32)
        yield rows, np.resize(rows, size)
