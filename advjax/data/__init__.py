"""Data sets, epoch order and on-device augmentation."""

from advjax.data.augment import KINDS, augment, cutmix, parse_augment, to_float
from advjax.data.base import Dataset, Split
from advjax.data.order import epoch_order, inject_label_noise, split_validation
from advjax.data.sources import load, names

__all__ = [
    "KINDS",
    "Dataset",
    "Split",
    "augment",
    "cutmix",
    "epoch_order",
    "inject_label_noise",
    "load",
    "names",
    "parse_augment",
    "split_validation",
    "to_float",
]
