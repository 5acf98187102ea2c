"""Data sets by their published sizes, for what is asked before the data is there."""

from __future__ import annotations

import numpy as np

from advjax.data.base import Dataset, Split
from advjax.errors import InputError

# Name in tensorflow-datasets -> image shape, classes, training and test images, as published there.
SIZES = {
    "mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
    "svhn_cropped": ((32, 32, 3), 10, 73_257, 26_032),
}


def stand_in(name: str) -> Dataset:
    """Black images and labels in turn, as many as the data set of that name has, and a warning that says so.

    Raises:
        InputError: its sizes are not known here.

    Examples:
        >>> stand_in("mnist").train.image.shape
        (60000, 28, 28, 1)
    """
    if name not in SIZES:
        raise InputError(f"data.name: there is no stand-in for {name!r}; allowed: {', '.join(SIZES)}")
    shape, classes, *counts = SIZES[name]
    train, test = (
        Split(np.broadcast_to(np.uint8(0), (count, *shape)), np.arange(count, dtype=np.int32) % classes)
        for count in counts
    )
    warning = f"data.name: {name} is not there; these are its published sizes, and nothing of its content is known"
    return Dataset(name, train, test, classes, (), (warning,))
