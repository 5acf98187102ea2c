"""Common corruptions (Hendrycks and Dietterich 2019): CIFAR-C's files, or the kinds that a formula gives.

CIFAR-10-C and its like hold a file KIND.npy per kind, uint8 [5 M, H, W, C], the test set's M images at severity 1, then
all of them at severity 2, and so on, and labels.npy [5 M]. Without such a folder the protocol makes the noises, brightness
and contrast itself, with the constants that CIFAR-10-C was made with; blurs, weather and compression are read from the
files only: they come of libraries whose versions change the pixels, and those packages that gather them have ImageNet-C's
constants, which small images do not survive.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from advjax.data import Split
from advjax.errors import InputError

SEVERITIES = 5
# The fifteen that the mean is over, and four that the authors keep for validation.
KINDS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

Images = Callable[[Split], Split]


class _Kind(NamedTuple):
    """A corruption by formula: `apply(generator, images in [0, 1], constant)`, and its constant by severity."""

    apply: Callable[[np.random.Generator, np.ndarray, float], np.ndarray]
    constants: tuple[float, ...]


def _gaussian(draw, x, c):
    return x + c * draw.standard_normal(x.shape)


def _shot(draw, x, c):
    return draw.poisson(x * c) / c


def _impulse(draw, x, c):
    hit, white = draw.random(x.shape) < c, draw.random(x.shape) < 0.5
    return np.where(hit, white, x)


def _brightness(draw, x, c):
    """The value of HSV, the largest channel, plus c; hue and saturation stay."""
    value = x.max(-1, keepdims=True)
    lighter = np.minimum(value + c, 1)
    return np.where(value > 0, x * (lighter / np.where(value > 0, value, 1)), lighter)


def _contrast(draw, x, c):
    mean = x.mean((1, 2), keepdims=True)
    return mean + c * (x - mean)


COMPUTED = {
    "gaussian_noise": _Kind(_gaussian, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": _Kind(_shot, (500, 250, 100, 75, 50)),
    "impulse_noise": _Kind(_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "brightness": _Kind(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": _Kind(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
}


def compute(kind: str, split: Split) -> Split:
    """A split at severities 1 to 5, one after the other, by formula; the same pixels every time.

    Args:
        kind: one of `COMPUTED`.
        split: N examples.

    Returns:
        uint8 [5 N, H, W, C] and labels [5 N].
    """
    number = tuple(COMPUTED).index(kind)
    images = []
    for severity, constant in enumerate(COMPUTED[kind].constants):
        draw = np.random.Generator(np.random.PCG64([number, severity]))
        corrupted = COMPUTED[kind].apply(draw, split.image / 255.0, constant)
        # Cut to integers as CIFAR-C's are, but not below one for want of the last digit.
        images.append((np.clip(corrupted, 0, 1) * 255 + 1e-6).astype(np.uint8))
    return Split(np.concatenate(images), np.tile(split.label, SEVERITIES))


def read(folder: pathlib.Path, kind: str, split: Split) -> Split:
    """The first N test images of a published file at severities 1 to 5; only these are read.

    Args:
        folder: of the files.
        kind: one of `KINDS` or `FURTHER`.
        split: the N examples whose corrupted versions these are.

    Raises:
        InputError: no such file, other shapes, or labels that are not the split's.
    """
    image, rows = _found(folder, kind, split)
    return Split(np.asarray(image[rows]), np.tile(split.label, SEVERITIES))


def check(folder: str, split: Split) -> None:
    """Raises an `InputError` unless all files of a folder are of the examples of a split; reads no image.

    Where the folder is empty, the kinds that a formula gives, there is nothing to check.
    """
    for kind in sources(folder) if folder else ():
        _found(pathlib.Path(folder), kind, split)


def _found(folder: pathlib.Path, kind: str, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """A kind's images, mapped, and the rows of them that are a split's."""
    where, n = f"evaluation.corruptions: {folder / kind}.npy", len(split.label)
    image, label = _map(folder / f"{kind}.npy"), _map(folder / "labels.npy")
    count, rest = divmod(len(label), SEVERITIES)
    if image.dtype != np.uint8 or image.shape != (len(label), *split.image.shape[1:]) or rest or count < n:
        raise InputError(
            f"{where} holds {image.dtype} {list(image.shape)}, beside {len(label)} labels; allowed: uint8 [5 M, "
            f"{', '.join(map(str, split.image.shape[1:]))}] and 5 M labels, M at least the {n} images that are tested"
        )
    rows = (np.arange(SEVERITIES)[:, None] * count + np.arange(n)).ravel()
    expected = np.tile(split.label, SEVERITIES)
    if (differ := np.flatnonzero(label[rows] != expected)).size:
        raise InputError(
            f"{where}: {folder / 'labels.npy'} is of other images than the test set's: row {rows[differ[0]]} has label "
            f"{label[rows[differ[0]]]}, the test image {expected[differ[0]]}"
        )
    return image, rows


def sources(folder: str = "") -> dict[str, Images]:
    """Kind -> what makes corrupted images of a split: from `folder`, or those of `COMPUTED` where it is empty.

    Raises:
        InputError: a folder without labels.npy or without the file of any kind.
    """
    if not folder:
        return {kind: partial(compute, kind) for kind in COMPUTED}
    place = pathlib.Path(folder)
    found = [kind for kind in (*KINDS, *FURTHER) if (place / f"{kind}.npy").is_file()]
    if not found or not (place / "labels.npy").is_file():
        raise InputError(
            f"must be a folder with labels.npy and files such as gaussian_noise.npy, {folder} is not", "corruptions"
        )
    return {kind: partial(read, place, kind) for kind in found}


def _map(file: pathlib.Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"evaluation.corruptions: {file} is no .npy file ({type(error).__name__})") from None
