"""How a training set lies in a device's memory, and the extra examples of an epoch beside it."""

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


def drawn(extra: Split, index: np.ndarray, n: int) -> tuple[np.ndarray, Split]:
    """The extra examples of an epoch of `mixed_order`, read into memory, and where each of them is among these.

    Args:
        extra: M examples, in memory or mapped (`npz.read_extra`): only the rows that are asked for are read.
        index: int32 [steps, B]: a row of the real set below n, n plus a row of the extra set from n on.
        n: number of real examples.

    Returns:
        index: `index` with n, n + 1, ... for the extra examples, in their order.
        split: these, images uint8 [E, H, W, C] and labels int32 [E].
    """
    added = index >= n
    rows = index[added] - n
    place = index.copy()
    place[added] = n + np.arange(len(rows), dtype=index.dtype)
    # In the file's order, so that a disk reads forwards.
    order = np.argsort(rows, kind="stable")
    images = np.empty((len(rows), *extra.image.shape[1:]), extra.image.dtype)
    images[order] = extra.image[rows[order]]
    return place, Split(images, extra.label[rows])
