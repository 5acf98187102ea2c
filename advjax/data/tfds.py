"""Data sets of TensorFlow Datasets, read without TensorFlow where they lie on disk in a random access format."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from absl import logging

from advjax.data.base import Dataset, Split, check_equal_shapes, check_images, check_labels, fit, stack_images
from advjax.errors import InputError, unknown

_EXTRA = 'pip install "advjax[tfds]"'


def read(name: str, listed: Sequence[str], data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """Reads an image classification data set of TFDS into main memory.

    A data set prepared in the format array_record is read without TensorFlow. One that is not prepared yet is
    downloaded and prepared in that format, and one prepared as tfrecord is read as it is; both need TensorFlow.

    Args:
        name: a builder's name, with configuration or version if need be (`emnist/letters`, `cifar10:3.0.2`), or the
            name of a data set prepared in `data_dir` whose builder TFDS does not have.
        listed: names to show, beside the nearest builders, when there is no such data set.
        data_dir: where TFDS keeps its data; by default the environment variable `TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.
        image_size: resize and crop to that size, see `base.fit`.

    Returns:
        The parts `train` and `test`, or `validation` in place of a missing `test`.

    Raises:
        InputError: no such data set, none of image classification, images that are not uint8 or differ in shape, no
            such parts, or TensorFlow needed and missing.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"data.name: {name!r} needs tensorflow-datasets, which fails to import ({error})") from error
    with _quiet():
        return _read(tfds, _find(tfds, name, listed, data_dir), name, data_dir, image_size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's warnings (no OpenCV, not prepared yet) from burying the one line that matters."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _find(tfds: Any, name: str, listed: Sequence[str], data_dir: str | None) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        builders = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.lower(), builders, n=3, cutoff=0.6)
        raise unknown("data set (data.name, listed or any TFDS builder)", name, {*listed, *near}) from None
    except ImportError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"data.name: {name!r} needs more than TFDS itself ({reason}); try {_EXTRA}") from error


def _read(tfds: Any, builder: Any, name: str, data_dir: str | None, image_size: int | None) -> Dataset:
    image_key, label_key = _keys(tfds, builder, name)
    if not builder.is_prepared():
        builder = _prepare(tfds, name, data_dir)
    parts = builder.info.splits
    test_part = "test" if "test" in parts else "validation"
    if "train" not in parts or test_part not in parts:
        raise InputError(f"data.name: {name!r} has the parts {', '.join(parts)}; needed: train, and test or validation")

    label_feature = builder.info.features[label_key]
    train, test = (
        _split(tfds, builder, part, image_key, label_key, image_size, f"data.name: {name!r}, {part}")
        for part in ("train", test_part)
    )
    check_equal_shapes(train, test, f"data.name: {name!r}, feature {image_key!r}")
    return Dataset(name, train, test, label_feature.num_classes, tuple(label_feature.names))


def _keys(tfds: Any, builder: Any, name: str) -> tuple[str, str]:
    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    for key, kind in zip(keys, kinds, strict=False):
        if not (isinstance(key, str) and key in features and isinstance(features[key], kind)):
            found = ", ".join(f"{k} ({type(f).__name__})" for k, f in features.items())
            raise InputError(
                f"data.name: {name!r} is not an image classification data set: looked for {key!r} as {kind.__name__}, "
                f"found {found}"
            )
    image = features[keys[0]]
    if image.np_dtype != np.uint8:
        raise InputError(
            f"data.name: {name!r}, feature {keys[0]!r}: images are {np.dtype(image.np_dtype)}; allowed: uint8 [H, W, C]"
        )
    return keys[0], keys[1]


def _need_tensorflow(name: str, state: str, data_dir: Any) -> None:
    """Imports TensorFlow, or says in one line how to get it and how to be rid of it afterwards."""
    try:
        import tensorflow as tf
    except ImportError:
        # Not `tfds build`: the command line of tensorflow-datasets 4.9.10 does not start without apache_beam.
        code = f"from advjax.data import load; load({name!r}, data_dir={str(data_dir)!r})"
        raise InputError(
            f"data.name: {name!r} is {state}, which needs TensorFlow: {_EXTRA}; "
            f'to prepare it as array_record, which needs none from then on: python -c "{code}"'
        ) from None
    # TensorFlow would otherwise take the accelerator's whole memory.
    tf.config.set_visible_devices([], "GPU")


def _prepare(tfds: Any, name: str, data_dir: str | None) -> Any:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    root = builder.data_dir_root
    _need_tensorflow(name, f"not yet prepared in {root}", root)
    try:
        builder.download_and_prepare()
    # Network, disk, checksums, a builder's own requirements: whatever it is, the reason is in the first line.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"data.name: TFDS could not prepare {name!r} in {root}: {reason}") from error
    return builder


def _examples(tfds: Any, builder: Any, part: str) -> Iterator[dict[str, Any]]:
    try:
        source = builder.as_data_source(part)
    except NotImplementedError:
        _need_tensorflow(builder.name, f"prepared as tfrecord in {builder.data_dir}", "ANOTHER_FOLDER")
        yield from tfds.as_numpy(builder.as_dataset(split=part, shuffle_files=False))
        return
    # One request for many examples takes half the time of as many requests.
    for start in range(0, len(source), 1024):
        yield from source.__getitems__(list(range(start, min(start + 1024, len(source)))))


def _split(
    tfds: Any, builder: Any, part: str, image_key: str, label_key: str, image_size: int | None, where: str
) -> Split:
    count = builder.info.splits[part].num_examples
    if not count:
        raise InputError(f"{where}: no images; at least one is needed")
    label = np.empty(count, np.int64)
    ids: list[bytes] = []

    def images() -> Iterator[np.ndarray]:
        for row, example in enumerate(_examples(tfds, builder, part)):
            label[row] = example[label_key]
            ids.append(example.get("id", b""))
            yield fit(example[image_key], image_size)

    image = stack_images(images(), count, lambda row: f"{where}: feature {image_key!r} of example {row}")
    classes = builder.info.features[label_key].num_classes
    if part == "test" and all(ids):
        # TFDS shuffles as it writes; "the first 1,000 test images" are those of the official order, which CIFAR's ids keep.
        order = np.argsort(np.asarray(ids), kind="stable")
        image, label = image[order], label[order]
    return Split(check_images(image, where), check_labels(label, count, where, classes))
