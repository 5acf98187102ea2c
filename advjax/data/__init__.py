"""Data sets, epoch order and on-device augmentation."""

from advjax.data.augment import KINDS, augment, cutmix, parse_augment, split_cutmix, to_float
from advjax.data.base import Dataset, Split
from advjax.data.layout import drawn, from_rows, to_rows
from advjax.data.npz import read_extra
from advjax.data.order import epoch_order, inject_label_noise, mixed_order, partners, split_validation, subset
from advjax.data.pictures import Cut, Pictures, Source
from advjax.data.sources import CROPS, STREAMING, load, names
from advjax.data.stand_in import SIZES, stand_in
from advjax.data.streaming import Course, Streamed, stream

__all__ = [
    "CROPS",
    "KINDS",
    "SIZES",
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
    "drawn",
    "epoch_order",
    "from_rows",
    "inject_label_noise",
    "load",
    "mixed_order",
    "names",
    "parse_augment",
    "partners",
    "read_extra",
    "split_cutmix",
    "split_validation",
    "stand_in",
    "stream",
    "subset",
    "to_float",
    "to_rows",
]
