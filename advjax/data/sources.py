"""Data sets by name."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import numpy as np

from advjax import plugins, remote
from advjax.data import digits, folder, npz, tfds
from advjax.data.base import Dataset, Split, check_equal_shapes, check_images, check_labels, inspect
from advjax.data.pictures import Cut
from advjax.errors import InputError, unknown

# The TFDS builders that are listed. Data read from a path under one of these names must have its classes.
_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "svhn_cropped": 10, "fashion_mnist": 10, "mnist": 10}

# More bytes of training images than this stream, if nobody says otherwise: the same on every machine.
_IN_MEMORY = 4 * 10**9
_OF_PICTURES = ("image_size", "resize", "crop", "streaming")
_DEFAULTS = {"crop": "centre", "streaming": "auto"}
CROPS, STREAMING = ("centre", "random"), ("auto", "True", "False")


def names() -> tuple[str, ...]:
    """The names that are listed; `load` takes every other TFDS image classification builder, too."""
    return ("npz", "image_folder", *_CLASSES)


def load(name: str, path: str | os.PathLike | None = None, **options: Any) -> Dataset:
    """Reads a data set into main memory, as uint8, or lists it, so that its images are decoded when they are asked for.

    A name `package.module:function` is called as `function(path, **options)` and returns a `Dataset`.

    In memory a data set takes N H W C bytes (CIFAR-10 with its test part 184 MB), on every device the same for the
    training part, where each batch becomes float32 when it is needed. For data sets up to a few GB; larger ones stream.

    Args:
        name: `digits` (embedded), `npz`, `image_folder` (both need `path`), or the name of a TFDS builder.
        path: an npz file, a directory of npz shards (see `npz.read`), or an image folder (`folder.read`). Given with
            any other name it is read in place of what that name says, as an image folder if it has a folder `train`
            in it. An address (gs://bucket/data.npz) is copied to this machine first, once (`advjax.remote`).
        **options: None, 0 and "" mean "not given".
            num_classes: number of classes, for data from a path; by default that which the name is known to have,
                the image folder's number of folders, or one more than the largest training label.
            data_dir: for TFDS: where it keeps its data.
            image_size: for image folders and TFDS: resize and crop the centre to image_size x image_size.
            resize: with image_size: the shorter side becomes so long before the centre is cropped; by default the crop
                is the largest centred square.
            streaming: for image folders and TFDS prepared as array_record: whether images are `Pictures` in place of an
                array; `"auto"` if the training images take more than 4 GB.
            crop: with image_size, of training images: `"centre"` or, for those that stream, `"random"`; see `Cut`.

    Returns:
        The data set; what seems wrong with it but may be meant is in its `warnings`.

    Raises:
        InputError: one line that names the field and what is allowed.
    """
    given = {key: value for key, value in options.items() if value or value is False}
    # What is so anyway need not be known to a source.
    given = {key: value for key, value in given.items() if (key, value) not in _DEFAULTS.items()}
    if plugins.is_reference(name) or name in plugins.registered("dataset"):
        return _from_outside(name, path, _in_memory(given))
    for key in ("num_classes", "image_size", "resize"):
        if given.get(key, 1) < 1:
            raise InputError(f"data.{key} is {given[key]}; allowed: integers from 1 on, 0 for the default")
    where = f"data.path: {path}" if path else f"data.name: {name!r}"
    try:
        dataset = _from_path(name, remote.local(path, "data.path"), given) if path else _by_name(name, given)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or type(error).__name__} ({error.filename or 'no file'})") from None
    return dataset._replace(warnings=(*dataset.warnings, *inspect(dataset.train, dataset.test, where)))


def _from_path(name: str, path: pathlib.Path, given: dict[str, Any]) -> Dataset:
    as_folder = name == "image_folder" or (name != "npz" and (path / "train").is_dir())
    given = given if as_folder else _in_memory(given)
    _check_options(given, ("num_classes", *_OF_PICTURES) if as_folder else ("num_classes",), f"data from {path}")
    given.setdefault("num_classes", _CLASSES.get(name))
    return folder.read(name, path, **_with_cut(given)) if as_folder else npz.read(name, path, **given)


def _by_name(name: str, given: dict[str, Any]) -> Dataset:
    if name == "npz":
        raise InputError("data.path: none given; npz needs an npz file or a directory of npz shards")
    if name == "image_folder":
        raise InputError("data.path: none given; image_folder needs a folder with train/CLASS/ in it")
    if name == "digits":
        _check_options(_in_memory(given), (), "digits")
        return digits.read()
    _check_options(given, ("data_dir", *_OF_PICTURES), f"the TFDS data set {name!r}")
    return tfds.read(name, names(), **_with_cut(given))


def _in_memory(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a source that is always in memory, where nothing need be said about that."""
    return {key: value for key, value in given.items() if (key, str(value)) != ("streaming", "False")}


def _with_cut(given: dict[str, Any]) -> dict[str, Any]:
    """The options with `cut` and `streams` in place of the fields that say how pictures become images, and when."""
    cut = Cut(given.get("image_size", 0), given.get("resize", 0), given.get("crop", "centre"))
    streaming = str(given.get("streaming", "auto"))
    for key, value, choices in (("streaming", streaming, STREAMING), ("crop", cut.crop, CROPS)):
        if value not in choices:
            raise unknown("choice", value, choices, f"data.{key}")
    for key in ("resize", "crop"):
        if key in given and not cut.size:
            raise InputError(f"data.image_size is 0; allowed with data.{key}={given[key]}: integers from 1 on")
    if 0 < cut.resize < cut.size:
        raise InputError(f"data.resize is {cut.resize}; allowed: from data.image_size, {cut.size}, on, or 0")
    if cut.crop == "random" and streaming == "False":
        raise InputError("data.crop: random crops are cut as images stream; allowed with data.streaming=False: centre")

    def streams(count: int, shape: tuple[int, ...]) -> bool:
        if streaming == "auto":
            return cut.crop == "random" or count * math.prod(shape) > _IN_MEMORY
        return streaming == "True"

    others = {key: value for key, value in given.items() if key not in _OF_PICTURES}
    return {**others, "cut": cut, "streams": streams}


def _check_options(given: dict[str, Any], allowed: tuple[str, ...], source: str) -> None:
    for key in given:
        if key not in allowed:
            raise unknown(f"option for {source}: data field", key, allowed)


def _from_outside(name: str, path: str | os.PathLike | None, options: dict[str, Any]) -> Dataset:
    made = plugins.call(plugins.resolve(name, "dataset", names()), f"data.name: {name}", path, **options)
    if not isinstance(made, Dataset):
        raise InputError(f"data.name: {name} must return an advjax.data.Dataset, it returned {type(made).__name__}")
    where = f"data.name: {name}"
    splits = []
    for split in (made.train, made.test):
        image = check_images(np.asarray(split.image), where) if split.in_memory else split.image
        splits.append(Split(image, check_labels(np.asarray(split.label), len(image), where, made.num_classes)))
    check_equal_shapes(splits[0], splits[1], where)
    return made._replace(train=splits[0], test=splits[1])
