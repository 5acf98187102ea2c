"""Images that are decoded when they are asked for, so that a data set may be larger than memory."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from advjax.data.base import check_memory, fit
from advjax.data.order import crop_draws
from advjax.errors import InputError

# torchvision's `RandomResizedCrop`: share of the area, aspect ratio, trials until the centre is taken.
_AREA, _ASPECT, _TRIALS = (0.08, 1.0), (3 / 4, 4 / 3), 10


class Source(Protocol):
    """Where pictures lie, by row. Worker processes get a copy by pickle."""

    def read(self, row: int) -> np.ndarray:
        """A picture as it is, uint8 [H, W, C]; raises `InputError` if it cannot be decoded."""

    def describe(self, row: int) -> str:
        """The field and the origin of a picture, for messages."""

    def identity(self, rows: np.ndarray) -> bytes:
        """What tells these pictures from others, without decoding them."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a picture becomes an image.

    Attributes:
        size: pixels a side; 0: as it is.
        resize: of an image that is not cropped at random: the shorter side becomes so long before the centre is cropped
            (ImageNet: 256, then 224); 0: the crop is the largest centred square.
        crop: of training images, `"centre"`, or `"random"`: a part of 8 to 100 % of the area with an aspect ratio of 3/4
            to 4/3, resized to size x size, as torchvision's `RandomResizedCrop`.
    """

    size: int = 0
    resize: int = 0
    crop: str = "centre"

    def whole(self, image: np.ndarray) -> np.ndarray:
        """An image as evaluation sees it: uint8 [H, W, C] to [size, size, C]."""
        if not self.size or not self.resize:
            return fit(image, self.size or None)
        height, width, _ = image.shape
        scale = self.resize / min(height, width)
        # As torchvision rounds: the longer side down, the margins to the nearest.
        height, width = (self.resize if side == min(image.shape[:2]) else int(scale * side) for side in (height, width))
        image = _resized(image, height, width)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return image[top : top + self.size, left : left + self.size]

    def sample(self, image: np.ndarray, seed: int, epoch: int, id: int) -> np.ndarray:
        """An image as training sees it in an epoch, a function of (seed, epoch, id)."""
        if self.crop == "centre":
            return self.whole(image)
        height, width, _ = image.shape
        top, left, height, width = _random_box(height, width, crop_draws(seed, epoch, id, 4 * _TRIALS))
        return _resized(image[top : top + height, left : left + width], self.size, self.size)


class Pictures:
    """uint8 images [N, H, W, C] that stand for an array in `Split.image` and are decoded when they are indexed.

    An index gives images in memory: an integer one, a slice or an array of rows several, decoded in threads. `select`
    gives other pictures, and decodes nothing.

    Attributes:
        source: where they lie.
        rows: int64 [N], which of the source's.
        cut: how they become images.
        shape: (N, H, W, C).
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, source: Source, rows: np.ndarray, cut: Cut, channels: int = 3) -> None:
        self.source, self.rows, self.cut = source, np.asarray(rows, np.int64), cut
        sides = (cut.size, cut.size) if cut.size else source.read(int(rows[0])).shape[:2]
        self.shape = (len(rows), *sides, channels)
        check_memory(math.prod(self.shape[1:]), f"data.image_size: {cut.size}: one image")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self.rows[index]
        if chosen.ndim == 0:
            return self._read(int(chosen))
        check_memory(len(chosen) * math.prod(self.shape[1:]), f"{len(chosen)} images: all together")
        images = np.empty((len(chosen), *self.shape[1:]), np.uint8)

        def read(place: int) -> None:
            images[place] = self._read(int(chosen[place]))

        # Decoders run outside the interpreter's lock.
        with ThreadPoolExecutor() as pool:
            try:
                list(pool.map(read, range(len(chosen))))
            except InputError:
                pool.shutdown(cancel_futures=True)
                raise
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return np.asarray(self[:], dtype)

    def select(self, rows: np.ndarray | slice) -> Pictures:
        """These pictures; a boolean array, rows, or a slice."""
        chosen = object.__new__(Pictures)
        chosen.source, chosen.rows, chosen.cut = self.source, self.rows[rows], self.cut
        chosen.shape = (len(chosen.rows), *self.shape[1:])
        return chosen

    def sample(self, id: int, seed: int, epoch: int) -> np.ndarray:
        """One of them as training sees it in an epoch: uint8 [H, W, C]."""
        row = int(self.rows[id])
        return self._checked(self.cut.sample(self.source.read(row), seed, epoch, id), row)

    def identity(self) -> bytes:
        """What tells these images from others, without decoding them."""
        return hashlib.sha256(self.source.identity(self.rows) + repr(self.cut).encode()).digest()

    def _read(self, row: int) -> np.ndarray:
        return self._checked(self.cut.whole(self.source.read(row)), row)

    def _checked(self, image: np.ndarray, row: int) -> np.ndarray:
        if image.shape != self.shape[1:]:
            raise InputError(
                f"{self.source.describe(row)} has the shape {image.shape}, others have {self.shape[1:]}; "
                "allowed: one shape, or data.image_size to resize and crop to"
            )
        return image


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image resized to height x width, bilinear and antialiased as Pillow does it."""
    from PIL import Image

    channels = image.shape[-1]
    resized = Image.fromarray(image[..., 0] if channels == 1 else image).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized).reshape(height, width, channels)


def _random_box(height: int, width: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part; `draws` are uniform in [0, 1), four a trial."""
    for area, aspect, down, right in draws.reshape(-1, 4):
        pixels = height * width * (_AREA[0] + area * (_AREA[1] - _AREA[0]))
        low, high = map(math.log, _ASPECT)
        ratio = math.exp(low + aspect * (high - low))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    h, w = min(height, round(width / _ASPECT[0])), min(width, round(height * _ASPECT[1]))
    return (height - h) // 2, (width - w) // 2, h, w
