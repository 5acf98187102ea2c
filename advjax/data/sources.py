"""Data sets by name."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from advjax.data import digits, npz
from advjax.data.base import Dataset
from advjax.errors import InputError, unknown

# TFDS builders that are listed, with the classes that data under these names must have wherever they are read from.
_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn_cropped": 10, "fashion_mnist": 10, "mnist": 10, "digits": 10}


def names() -> tuple[str, ...]:
    """The names that are listed; `load` takes every other TFDS image classification builder, too."""
    return ("digits", "npz", *(name for name in _CLASSES if name != "digits"))


def load(name: str, path: str | os.PathLike | None = None, **options: Any) -> Dataset:
    """Reads a data set into main memory as uint8.

    Args:
        name: `digits` (embedded), `npz` (needs `path`), or the name of a TFDS builder.
        path: an npz file or a directory of npz shards; read instead of what the name says.
        **options: None, 0 and "" mean "not given".
            num_classes: number of classes of npz data, by default that of the name or one more than the largest
                training label.

    Raises:
        InputError: one line that names the field and what is allowed.
    """
    options = {key: value for key, value in options.items() if value}
    if path:
        return npz.read(name, pathlib.Path(path), options.get("num_classes") or _CLASSES.get(name))
    if name == "digits":
        return digits.read()
    if name == "npz":
        raise InputError("data.path: none given; npz needs an npz file or a directory of npz shards")
    raise unknown("data set (data.name)", name, names())
