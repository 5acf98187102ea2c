"""Data sets from npz files: one file with both parts, or a directory of shards."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np

from advjax import remote
from advjax.data.archive import Member, members
from advjax.data.base import Dataset, Split, check_images, check_labels, check_memory
from advjax.errors import InputError

_MOST_COMPRESSED = 2**32


def read(name: str, path: pathlib.Path, num_classes: int | None = None) -> Dataset:
    """Reads `x_train, y_train, x_test, y_test` from one file, or `train*.npz` and `test*.npz` from a directory.

    A shard holds `image` and `label` (or `x_train`/`y_train`, `x_test`/`y_test`); shards are taken in natural order
    (`train_2` before `train_10`). Other arrays are ignored. Nothing pickled is ever loaded.

    Args:
        name: name of the resulting data set.
        path: an npz file or a directory.
        num_classes: number of classes; by default one more than the largest training label.

    Raises:
        InputError: anything amiss, with the file and what is allowed.
    """
    one_file = path.is_file()
    if one_file:
        files = [("train", path), ("test", path)]
    elif path.is_dir():
        files = [(part, file) for part in ("train", "test") for file in _shards(path, part)]
    else:
        what = "is neither a file nor a directory" if path.exists() else "does not exist"
        raise InputError(f"data.path: {path} {what}; looked for an npz file or a directory of npz shards")

    arrays = [_part_arrays(file, part, one_file) for part, file in files]
    check_memory(sum(member.nbytes for pair in arrays for member in pair), f"data.path: {path}")
    splits = [_read_part(*pair) for pair in arrays]
    shape, first = splits[0].image.shape[1:], files[0][1]
    for (part, file), split in zip(files, splits, strict=True):
        if split.image.shape[1:] != shape:
            raise InputError(
                f"data.path: images of different shapes: {shape} in {first} (train), "
                f"{split.image.shape[1:]} in {file} ({part}); allowed: one shape"
            )
    parts = {
        wanted: [split for (part, _), split in zip(files, splits, strict=True) if part == wanted]
        for wanted in ("train", "test")
    }
    classes = num_classes or _count_classes(parts["train"], path)
    for (part, file), split in zip(files, splits, strict=True):
        check_labels(split.label, len(split.image), _where(file, part), classes)
    others = [] if one_file else sorted({file.name for file in path.glob("*.npz")} - {file.name for _, file in files})
    warnings = (f"data.path: {path}: not read, neither train*.npz nor test*.npz: {', '.join(others)[:200]}",)
    return Dataset(
        name, _concatenate(parts["train"]), _concatenate(parts["test"]), classes, warnings=warnings if others else ()
    )


def read_extra(path: str | os.PathLike, shape: tuple[int, int, int], num_classes: int, labels: str = "label") -> Split:
    """Extra training images, mapped from their file rather than read: any number of them, in no memory.

    Args:
        path: an npz file with `image`, uint8 [M, H, W, C], and labels, integers [M]. Written by numpy.savez; one written
            by numpy.savez_compressed is read into memory, up to 4 GiB.
        shape: (H, W, C) of the images they are mixed with.
        num_classes: number of classes.
        labels: the array that holds the labels, of their own or pseudo-labels.

    Returns:
        Images that are read from the file when they are indexed (their checksum is not verified), and labels.

    Raises:
        InputError: no such file or arrays, another type or shape, labels outside the classes, compressed images of
            more than 4 GiB.
    """
    file = remote.local(path, "data.extra.path")
    where = f"data.extra.path: {file}"
    try:
        found = members(file, where)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or type(error).__name__}") from None
    if not {"image", labels} <= set(found):
        raise InputError(f"{where}: looked for the arrays image and {labels}, found {', '.join(found)[:200] or 'none'}")
    image, label = found["image"], found[labels]
    if image.dtype != np.uint8 or image.shape[1:] != tuple(shape) or not image.shape[0]:
        raise InputError(f"{where}: images are {image.dtype} {list(image.shape)}; allowed: uint8 {['M', *shape]}")
    if image.offset is None and image.nbytes > _MOST_COMPRESSED:
        raise InputError(
            f"{where}: {image.nbytes / 1e9:.1f} GB of compressed images, which cannot be mapped; allowed: the same "
            "arrays written by numpy.savez(FILE, image=image, label=label)"
        )
    split = Split(image.map(), check_labels(label.read(), image.shape[0], where, num_classes))
    if split.image[:1024].max() <= 1:
        raise InputError(f"{where}: the values of the first images are 0 or 1; allowed: integers in [0, 255]")
    return split


def _shards(folder: pathlib.Path, part: str) -> list[pathlib.Path]:
    shards = sorted(folder.glob(f"{part}*.npz"), key=_natural)
    if not shards:
        found = ", ".join(sorted(file.name for file in folder.glob("*.npz"))[:8]) or "no .npz file"
        raise InputError(f"data.path: no {part} part in {folder}: looked for {part}*.npz, found {found}")
    return shards


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"(\d+)", path.name)]


def _where(file: pathlib.Path, part: str) -> str:
    return f"data.path: {file} ({part})"


def _count_classes(train: list[Split], path: pathlib.Path) -> int:
    present = np.unique(np.concatenate([split.label for split in train]))
    count = int(present[-1]) + 1
    # A stray label (255 for -1, say) would silently widen the network's last layer.
    if 2 * len(present) < count:
        raise InputError(
            f"data.path: {path}: training labels reach {count - 1}, but only {len(present)} of these {count} classes "
            "occur; allowed: 0..K-1, with data.num_classes=K if most are meant to be empty"
        )
    return count


def _concatenate(splits: list[Split]) -> Split:
    if len(splits) == 1:
        return splits[0]
    return Split(np.concatenate([s.image for s in splits]), np.concatenate([s.label for s in splits]))


def _part_arrays(file: pathlib.Path, part: str, one_file: bool) -> tuple[Member, Member]:
    pairs = [(f"x_{part}", f"y_{part}")] if one_file else [("image", "label"), (f"x_{part}", f"y_{part}")]
    where = _where(file, part)
    found = members(file, where)
    for image, label in pairs:
        if image in found and label in found:
            return found[image], found[label]
    wanted = " or ".join(f"{x} and {y}" for x, y in pairs)
    hint = ""
    if one_file and "image" in found:
        hint = "; image and label go into train*.npz and test*.npz of a directory"
    names = ", ".join(found)[:200] or "none"
    raise InputError(f"{where}: no {part} part: looked for the arrays {wanted}, found {names}{hint}")


def _read_part(image: Member, label: Member) -> Split:
    images = check_images(image.read(), image.where)
    return Split(images, check_labels(label.read(), len(images), label.where))
