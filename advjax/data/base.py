"""What a data set is: two parts of uint8 images with integer labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from advjax.errors import InputError


class Split(NamedTuple):
    """One part of a data set.

    Attributes:
        image: uint8 [N, H, W, C], values 0..255: an array in main memory, or `Pictures` in its place, which are decoded
            when they are indexed.
        label: int32 [N], values 0..num_classes-1.
    """

    image: np.ndarray
    label: np.ndarray

    def select(self, rows: np.ndarray | slice) -> Split:
        """These examples; pictures are not decoded for it."""
        chosen = getattr(self.image, "select", self.image.__getitem__)
        return Split(chosen(rows), self.label[rows])

    def first(self, count: int) -> Split:
        """The first `count` examples; all for 0."""
        return self.select(slice(count or None))

    @property
    def in_memory(self) -> bool:
        """Whether the images are there, all at once."""
        return not hasattr(self.image, "select")


class Dataset(NamedTuple):
    """A data set for image classification.

    Attributes:
        name: the name it was asked for by.
        train: the training part (a validation part is carved from it by `split_validation`).
        test: the part that is only evaluated on.
        num_classes: number of classes.
        classes: the classes' names in the order of the labels, where the source has any, else empty.
        warnings: what seems wrong with it but may be meant, a line each, beginning with the field.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        _, height, width, channels = self.train.image.shape
        return height, width, channels


def check_images(image: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8 [N, H, W, C].

    Args:
        image: integers in [0, 255], [N, H, W] or [N, H, W, C] with 1 to 4 channels, N > 0.
        where: the field and the source, at the start of every message.

    Raises:
        InputError: floating-point values (it cannot be told whether 1.0 is white), values outside [0, 255], other
            shapes, or no images.
    """
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4 or not 1 <= image.shape[-1] <= 4:
        raise InputError(
            f"{where}: images have the shape {image.shape}; allowed: [N, H, W], or [N, H, W, C] with C 1 to 4"
        )
    if image.size == 0:
        raise InputError(f"{where}: no images (shape {image.shape}); at least one is needed")
    if image.dtype.kind not in "iu":  # NumPy counts spans of time among the integers
        raise InputError(f"{where}: images are {image.dtype}; allowed: integers in [0, 255], best uint8")
    if image.dtype != np.uint8:
        low, high = image.min(), image.max()
        if low < 0 or high > 255:
            raise InputError(f"{where}: image values run from {low} to {high}; allowed: integers in [0, 255]")
    return image.astype(np.uint8, copy=False)


def check_labels(label: np.ndarray, count: int, where: str, num_classes: int | None = None) -> np.ndarray:
    """Labels as int32 [N].

    Args:
        label: integers [N] or [N, 1].
        count: the number of images they belong to.
        where: the field and the source, at the start of every message.
        num_classes: labels must be below it, where it is known.

    Raises:
        InputError: another shape or number than the images', not integers, negative, or outside the classes.
    """
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim != 1:
        raise InputError(f"{where}: labels have the shape {label.shape}; allowed: [N] or [N, 1]")
    if len(label) != count:
        raise InputError(f"{where}: {count} images but {len(label)} labels; there must be one label per image")
    if label.dtype.kind not in "iu":
        raise InputError(f"{where}: labels are {label.dtype}; allowed: integers from 0 on")
    low, high = int(label.min()), int(label.max())
    if low < 0 or (num_classes is not None and high >= num_classes) or high > np.iinfo(np.int32).max:
        bound = f"0..{num_classes - 1} ({num_classes} classes)" if num_classes is not None else "integers from 0 on"
        raise InputError(f"{where}: labels run from {low} to {high}; allowed: {bound}")
    return label.astype(np.int32)


def check_memory(nbytes: int, what: str) -> None:
    """Raises an `InputError` if something takes more memory than this machine has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes > memory:
        raise InputError(f"{what} takes {nbytes / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB of memory")


# Of pictures, which are not all read before training.
_LOOKED_AT = 64


def inspect(train: Split, test: Split, where: str) -> tuple[str, ...]:
    """What seems wrong with a data set: no label 0, a single class, images that are there more than once.

    Of pictures that are decoded when they are asked for, only the first are looked at, and not for repetitions.

    Args:
        train: the training part.
        test: the test part.
        where: the field and the source, at the start of every line.

    Returns:
        Lines to be shown and kept with the results.

    Raises:
        InputError: images of only 0 and 1, which are black to the eye: floats or booleans that were never scaled.
    """
    for part, split in (("training", train), ("test", test)):
        if split.image[: None if split.in_memory else _LOOKED_AT].max() <= 1:
            raise InputError(
                f"{where}: the values of all {part} images are 0 or 1, black to the eye; allowed: integers in [0, 255] "
                "(multiply by 255)"
            )
    lines = []
    present = np.unique(train.label)
    if present[0] > 0:
        lines.append(
            f"the training labels run from {present[0]} to {present[-1]}, without a 0: labels count from 0, and the "
            "network has an output for every class below"
        )
    if len(present) == 1:
        lines.append(f"all training labels are {present[0]}: a single class, which every network gets right")
    if train.in_memory and test.in_memory:
        lines += _repetitions(train, test)
    return tuple(f"{where}: {line}" for line in lines)


def _repetitions(train: Split, test: Split) -> list[str]:
    lines = []
    seen = [hash(image.tobytes()) for image in train.image]
    distinct = set(seen)
    if repeated := len(seen) - len(distinct):
        lines.append(f"{repeated} of {len(seen)} training images repeat an earlier one")
    if shared := sum(hash(image.tobytes()) in distinct for image in test.image):
        lines.append(f"{shared} of {len(test.image)} test images are training images, too: their accuracy means little")
    return lines


def stack_images(images: Iterable[np.ndarray], count: int, describe: Callable[[int], str]) -> np.ndarray:
    """Images that come one by one, in one array that is allocated once.

    Args:
        images: `count` times uint8 [H, W, C].
        count: how many, at least 1.
        describe: the field and the origin of an image, by its row, for messages.

    Returns:
        uint8 [count, H, W, C].

    Raises:
        InputError: images of different shapes.
    """
    rows = enumerate(images)
    _, first = next(rows)
    check_memory(count * first.nbytes, f"{describe(0)}: {count} images of its shape {first.shape}: all together")
    stacked = np.empty((count, *first.shape), np.uint8)
    stacked[0] = first
    for row, image in rows:
        if image.shape != first.shape:
            raise InputError(
                f"{describe(row)} has the shape {image.shape}, {describe(0)} has {first.shape}; "
                "allowed: one shape, or data.image_size to resize and crop to"
            )
        stacked[row] = image
    return stacked


def fit(image: np.ndarray, size: int | None) -> np.ndarray:
    """The largest centred square of an image, resized to size x size (bilinear, antialiased); as it is without size.

    The same pixels as scaling the shorter side to `size` and cropping the centre, but for rounding.

    Args:
        image: uint8 [H, W, C], C 1, 3 or 4.
        size: pixels per side or None.
    """
    if size is None:
        return image
    check_memory(size * size * image.shape[-1], f"data.image_size: {size}: one image")
    from PIL import Image, ImageOps

    grey = image.shape[-1] == 1
    resized = ImageOps.fit(
        Image.fromarray(image[..., 0] if grey else image), (size, size), method=Image.Resampling.BILINEAR
    )
    return np.asarray(resized).reshape(size, size, image.shape[-1])


def check_equal_shapes(train: Split, test: Split, where: str) -> None:
    """Raises an `InputError` if the images of the two parts differ in shape."""
    if train.image.shape[1:] != test.image.shape[1:]:
        raise InputError(
            f"{where}: training images have the shape {train.image.shape[1:]}, test images {test.image.shape[1:]}; "
            "allowed: one shape, or data.image_size to resize and crop to"
        )
