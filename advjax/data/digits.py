"""The digits that ship with scikit-learn, so that everything runs without a download."""

from __future__ import annotations

import numpy as np

from advjax.data.base import Dataset, Split
from advjax.data.order import split_validation


def read() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 grey images [8, 8, 1] of 10 classes.

    The values 0..16 become round(v * 255 / 16). The set has no official split: 360 examples, each class in
    proportion, are the test part by a split that is the same for every run, 1,437 the training part.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    image = np.round(raw.images * 255 / 16).astype(np.uint8)[..., None]
    train, test, _ = split_validation(Split(image, raw.target.astype(np.int32)), size=360, seed=0)
    return Dataset("digits", train, test, 10, tuple(str(digit) for digit in range(10)))
