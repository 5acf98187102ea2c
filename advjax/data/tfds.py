"""Data sets of TensorFlow Datasets, read without TensorFlow where they lie on disk in a random access format."""

from __future__ import annotations

import difflib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from absl import logging

from advjax.data.base import Dataset, Split, check_equal_shapes, check_images, check_labels, stack_images
from advjax.data.pictures import Cut, Pictures
from advjax.errors import InputError, unknown
from advjax.files import read_json, write_atomically

_EXTRA = 'pip install "advjax[tfds]"'


def read(
    name: str,
    listed: Sequence[str],
    data_dir: str | None = None,
    cut: Cut = Cut(),
    streams: Callable[[int, tuple[int, ...]], bool] = lambda count, shape: False,
) -> Dataset:
    """Reads an image classification data set of TFDS into main memory, or its labels only.

    A data set prepared in the format array_record is read without TensorFlow. One that is not prepared yet is
    downloaded and prepared in that format, and one prepared as tfrecord is read as it is; both need TensorFlow.

    Args:
        name: a builder's name, with configuration or version if need be (`emnist/letters`, `cifar10:3.0.2`), or the
            name of a data set prepared in `data_dir` whose builder TFDS does not have.
        listed: names to show, beside the nearest builders, when there is no such data set.
        data_dir: where TFDS keeps its data; by default the environment variable `TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.
        cut: resize and crop every image; without a size they must all be of one.
        streams: whether so many training images of such a shape shall be `Pictures` rather than in memory. The labels
            are read once, and kept in a file beside the data where that can be written.

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
        return _read(tfds, _find(tfds, name, listed, data_dir), name, data_dir, cut, streams)


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


def _read(tfds: Any, builder: Any, name: str, data_dir: str | None, cut: Cut, streams: Callable[..., bool]) -> Dataset:
    image_key, label_key = _keys(tfds, builder, name)
    if not builder.is_prepared():
        builder = _prepare(tfds, name, data_dir)
    parts = builder.info.splits
    test_part = "test" if "test" in parts else "validation"
    if "train" not in parts or test_part not in parts:
        raise InputError(f"data.name: {name!r} has the parts {', '.join(parts)}; needed: train, and test or validation")

    label_feature = builder.info.features[label_key]
    splits = {}
    for part in ("train", test_part):
        where = f"data.name: {name!r}, {part}"
        count = builder.info.splits[part].num_examples
        if not count:
            raise InputError(f"{where}: no images; at least one is needed")
        if part == "train":
            known = builder.info.features[image_key].shape
            shape = (cut.size, cut.size, known[2]) if cut.size else known
            streamed = streams(count, tuple(side or 0 for side in shape))
        make = _streamed if streamed else _split
        splits[part] = make(tfds, builder, part, image_key, label_key, cut, where)
    train, test = splits["train"], splits[test_part]
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


def _split(tfds: Any, builder: Any, part: str, image_key: str, label_key: str, cut: Cut, where: str) -> Split:
    count = builder.info.splits[part].num_examples
    label = np.empty(count, np.int64)
    ids: list[bytes] = []

    def images() -> Iterator[np.ndarray]:
        for row, example in enumerate(_examples(tfds, builder, part)):
            label[row] = example[label_key]
            ids.append(example.get("id", b""))
            yield cut.whole(example[image_key])

    image = stack_images(images(), count, lambda row: f"{where}: feature {image_key!r} of example {row}")
    classes = builder.info.features[label_key].num_classes
    if part == "test" and all(ids):
        # TFDS shuffles as it writes; "the first 1,000 test images" are those of the official order, which CIFAR's ids keep.
        order = np.argsort(np.asarray(ids), kind="stable")
        image, label = image[order], label[order]
    return Split(check_images(image, where), check_labels(label, count, where, classes))


class Records:
    """The pictures of a part that is prepared as array_record: a `Source`, opened anew in every process."""

    def __init__(self, folder: str, part: str, image_key: str, where: str) -> None:
        self._folder, self._part, self._key, self._where = folder, part, image_key, where
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    def read(self, row: int) -> np.ndarray:
        try:
            with _quiet():
                if self._opened is None:
                    import tensorflow_datasets as tfds

                    self._opened = tfds.builder_from_directory(self._folder).as_data_source(self._part)
                return self._opened[row][self._key]
        # Files that are gone or damaged: whatever the reader trips over.
        except Exception as error:
            raise InputError(f"{self.describe(row)} cannot be read ({type(error).__name__})") from None

    def describe(self, row: int) -> str:
        return f"{self._where}: feature {self._key!r} of example {row}"

    def identity(self, rows: np.ndarray) -> bytes:
        """Name, version and part of the data set, and the rows."""
        version = "/".join(pathlib.Path(self._folder).parts[-2:])
        return hashlib.sha256(f"{version}/{self._part}/{self._key}".encode() + rows.tobytes()).digest()


def _streamed(tfds: Any, builder: Any, part: str, image_key: str, label_key: str, cut: Cut, where: str) -> Split:
    count, features = builder.info.splits[part].num_examples, builder.info.features
    label = check_labels(
        _labels(tfds, builder, part, image_key, label_key, where), count, where, features[label_key].num_classes
    )
    source = Records(str(builder.data_dir), part, image_key, where)
    return Split(Pictures(source, np.arange(count), cut, features[image_key].shape[2] or 3), label)  # type: ignore[arg-type]


def _labels(tfds: Any, builder: Any, part: str, image_key: str, label_key: str, where: str) -> np.ndarray:
    """All labels of a part; they lie among the pictures, so that reading them takes as long as reading these."""
    folder, count = pathlib.Path(builder.data_dir), builder.info.splits[part].num_examples
    file = f"advjax-{label_key}-{part}.json"
    with suppress(InputError):
        known = np.asarray(read_json(folder, file).get("label"))
        if known.shape == (count,):
            return known
    try:
        source = builder.as_data_source(part, decoders={image_key: tfds.decode.SkipDecoding()})
    except NotImplementedError:
        raise InputError(
            f"{where} is prepared as tfrecord, which has no random access; allowed with data.streaming: array_record "
            f'(python -c "from advjax.data import load; load({builder.name!r}, data_dir=ANOTHER_FOLDER)" makes it)'
        ) from None
    starts = range(0, count, 1024)
    chunks = (source.__getitems__(list(range(start, min(start + 1024, count)))) for start in starts)
    label = np.array([example[label_key] for chunk in chunks for example in chunk], np.int64)
    with suppress(OSError):
        write_atomically(folder / file, json.dumps({"label": label.tolist()}))
    return label
