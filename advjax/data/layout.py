"""How a training set lies in a device's memory, and rows of two sets in one batch."""

from __future__ import annotations

import math
from typing import TypeVar

import jax
import numpy as np

from advjax.data.base import Split

_LANES = 128

Array = TypeVar("Array", np.ndarray, jax.Array)


def to_rows(images: np.ndarray) -> np.ndarray:
    """Images as one row each, zeros behind it up to a multiple of 128 bytes.

    A TPU gathers rows of such an array from where it lies; an array [N, H, W, C] it lays out anew in every step.

    Args:
        images: uint8 [N, H, W, C].

    Returns:
        uint8 [N, R], R = H W C rounded up; a view where nothing is added.
    """
    rows = images.reshape(len(images), -1)
    missing = -rows.shape[1] % _LANES
    return np.pad(rows, ((0, 0), (0, missing))) if missing else rows


def from_rows(rows: Array, shape: tuple[int, int, int]) -> Array:
    """The images that `to_rows` made rows of, or any selection of these.

    Args:
        rows: [B, R], a NumPy or JAX array.
        shape: (H, W, C).

    Returns:
        [B, H, W, C].
    """
    return rows[:, : math.prod(shape)].reshape(len(rows), *shape)


def take(real: Split, extra: Split, rows: np.ndarray) -> Split:
    """One batch of `mixed_order`: row r of the real set for r < N, row r - N of the extra set from N on.

    Args:
        real: N examples.
        extra: M examples, in memory or mapped (`npz.read_extra`): only the rows that are asked for are read.
        rows: integers [B] below N + M.

    Returns:
        Images uint8 [B, H, W, C] and labels int32 [B], in memory.
    """
    n = len(real.label)
    added = rows >= n
    batch = Split(np.empty((len(rows), *real.image.shape[1:]), real.image.dtype), np.empty(len(rows), real.label.dtype))
    for source, chosen, index in ((real, ~added, rows[~added]), (extra, added, rows[added] - n)):
        batch.image[chosen], batch.label[chosen] = source.image[index], source.label[index]
    return batch
