"""Data sets, epoch order and on-device augmentation."""

from advjax.data.augment import KINDS, augment, cutmix, parse_augment, to_float
from advjax.data.base import Dataset, Split
from advjax.data.layout import from_rows, take, to_rows
from advjax.data.npz import read_extra
from advjax.data.order import epoch_order, inject_label_noise, mixed_order, split_validation, subset
from advjax.data.sources import load, names

__all__ = [
    "KINDS",
    "Dataset",
    "Split",
    "augment",
    "cutmix",
    "epoch_order",
    "from_rows",
    "inject_label_noise",
    "load",
    "mixed_order",
    "names",
    "parse_augment",
    "read_extra",
    "split_validation",
    "subset",
    "take",
    "to_float",
    "to_rows",
]
