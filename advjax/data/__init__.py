"""Data sets, epoch order and on-device augmentation."""

from advjax.data.augment import KINDS, augment, cutmix, parse_augment, to_float
from advjax.data.base import Dataset, Split
from advjax.data.layout import from_rows, take, to_rows
from advjax.data.npz import read_extra
from advjax.data.order import epoch_order, inject_label_noise, mixed_order, split_validation, subset
from advjax.data.pictures import Cut, Pictures, Source
from advjax.data.sources import CROPS, STREAMING, load, names
from advjax.data.streaming import Course, Streamed, stream

__all__ = [
    "CROPS",
    "KINDS",
    "STREAMING",
    "Course",
    "Cut",
    "Dataset",
    "Pictures",
    "Source",
    "Split",
    "Streamed",
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
    "stream",
    "subset",
    "take",
    "to_float",
    "to_rows",
]
