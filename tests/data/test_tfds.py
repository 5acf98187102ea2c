"""On real TFDS data sets, written to disk by TFDS itself. Writing needs TensorFlow, reading must not."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

from advjax.data.pictures import Cut
from advjax.data.tfds import _split

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A finder that hides TensorFlow as if it were not installed.
HIDE = """
import sys
from importlib.machinery import PathFinder

class Hiding:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""

BUILDERS = """
import numpy as np
import tensorflow_datasets as tfds

def shapes_of(part, sizes=((6, 5),)):
    rng = np.random.default_rng(len(part))
    for i in range(31 if part == "train" else 7):
        yield i, {"image": rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8), "label": i % 3}

class Small(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    shape, dtype, parts, sizes = (6, 5, 3), np.uint8, ("train", "test"), ((6, 5),)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.shape, dtype=self.dtype),
            "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in self.parts}

    def _generate_examples(self, part):
        for i, example in shapes_of(part, self.sizes):
            yield i, {**example, "image": example["image"].astype(self.dtype)}

class SmallValidation(Small):
    parts = ("train", "validation")

class SmallMixed(Small):
    shape, sizes = (None, None, 3), ((6, 5), (8, 4))

class SmallFloat(Small):
    shape, dtype = (6, 5, 1), np.float32

    def _generate_examples(self, part):
        for i, example in shapes_of(part):
            yield i, {**example, "image": example["image"][..., :1].astype(np.float32)}

class SmallTrainOnly(Small):
    parts = ("train",)
"""


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def load_without_tensorflow(*calls):
    """What `load(name, **options)` gives in a process where TensorFlow cannot be imported: arrays or a message."""
    code = f"""{HIDE}
import json
import numpy as np
from advjax.data import load
from advjax.errors import InputError

results = []
for name, options in json.loads(sys.argv[1]):
    try:
        data = load(name, **options)
        parts = {{p: [np.asarray(s.image).tolist(), s.label.tolist(), str(s.image.dtype)]
                  for p, s in (("train", data.train), ("test", data.test))}}
        results.append({{**parts, "num_classes": data.num_classes, "classes": data.classes}})
    except InputError as error:
        results.append(str(error))
assert "tensorflow" not in sys.modules
print(json.dumps(results))
"""
    return json.loads(python(code, json.dumps(calls)).splitlines()[-1])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip('writing a TFDS data set needs TensorFlow: pip install "advjax[tfds]"')
    root = tmp_path_factory.mktemp("tfds")
    code = """
        for builder in (Small, SmallValidation, SmallMixed, SmallFloat, SmallTrainOnly):
            builder(data_dir=f"{sys.argv[1]}/array_record", file_format="array_record").download_and_prepare()
        Small(data_dir=f"{sys.argv[1]}/tfrecord", file_format="tfrecord").download_and_prepare()
    """
    python(f"import sys\n{BUILDERS}\n{textwrap.dedent(code)}", root)
    return root


def rows(images, labels):
    """The examples of a part in an order of their own: TFDS shuffles when it writes."""
    return sorted((np.asarray(image).tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def expected(part, count):
    rng = np.random.default_rng(len(part))
    images = [rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in range(count)]
    return rows(images, np.arange(count) % 3)


def found(result, part):
    images, labels, dtype = result[part]
    assert dtype == "uint8"
    return rows(np.array(images, np.uint8), labels)


def test_reads_array_record_without_tensorflow(prepared):
    options = {"data_dir": str(prepared / "array_record")}
    streamed = {**options, "streaming": True}
    small, again, resized, validation, mixed, mixed_resized, floats, train_only, *streaming = load_without_tensorflow(
        ("small", options),
        ("small", options),
        ("small", {**options, "image_size": 4}),
        ("small_validation", options),
        ("small_mixed", options),
        ("small_mixed", {**options, "image_size": 4}),
        ("small_float", options),
        ("small_train_only", options),
        ("small", streamed),
        ("small", streamed),
        ("small_mixed", {**streamed, "image_size": 4}),
        ("small_mixed", streamed),
    )
    assert found(small, "train") == expected("train", 31) and found(small, "test") == expected("test", 7)
    assert small["num_classes"] == 3 and small["classes"] == ["a", "b", "c"]
    assert again == small
    assert np.shape(resized["train"][0]) == (31, 4, 4, 3)
    assert found(validation, "test") == expected("validation", 7)
    assert "feature 'image' of example" in mixed and "(8, 4, 3)" in mixed and "data.image_size" in mixed
    assert np.shape(mixed_resized["test"][0]) == (7, 4, 4, 3)
    assert "'image'" in floats and "float32; allowed: uint8" in floats
    assert "has the parts train; needed: train, and test or validation" in train_only
    # The second time the labels come from the file that the first one left.
    assert streaming[:3] == [small, small, mixed_resized] and "data.image_size" in streaming[3]
    assert len(list(prepared.glob("array_record/small/*/advjax-label-train.json"))) == 1


def test_tfrecord_needs_tensorflow(prepared):
    message, streamed = (
        load_without_tensorflow(("small", {"data_dir": str(prepared / "tfrecord"), "streaming": each}))[0]
        for each in (False, True)
    )
    assert "prepared as tfrecord, which has no random access; allowed with data.streaming: array_record" in streamed
    assert 'pip install "advjax[tfds]"' in message and "is prepared as tfrecord in" in message and "\n" not in message


def test_reads_tfrecord_and_prepares_with_tensorflow(prepared, tmp_path):
    code = """
        from advjax.data import load
        for name, folder in (("small", sys.argv[1]), ("small", sys.argv[2])):
            data = load(name, data_dir=folder)
            np.savez(f"{sys.argv[2]}/{folder == sys.argv[2]}.npz", *data.train, *data.test)
    """
    python(f"import sys\n{BUILDERS}\n{textwrap.dedent(code)}", prepared / "tfrecord", tmp_path)
    for file in ("False.npz", "True.npz"):
        arrays = list(np.load(tmp_path / file).values())
        assert rows(*arrays[:2]) == expected("train", 31) and rows(*arrays[2:]) == expected("test", 7)
    # What was prepared is in the format that needs no TensorFlow the next time.
    (again,) = load_without_tensorflow(("small", {"data_dir": str(tmp_path)}))
    assert found(again, "train") == expected("train", 31)


def test_unprepared_or_unknown_data_sets_without_tensorflow(tmp_path):
    cifar, wrong, text, bad = load_without_tensorflow(
        ("cifar10", {"data_dir": str(tmp_path)}),
        ("cifar11", {"data_dir": str(tmp_path)}),
        ("ag_news_subset", {"data_dir": str(tmp_path)}),
        ("no such name", {}),
    )
    assert 'pip install "advjax[tfds]"' in cifar and f"load('cifar10', data_dir='{tmp_path}')" in cifar
    assert wrong.startswith("unknown data set") and "did you mean cifar10" in wrong
    assert "not an image classification data set" in text
    assert bad.startswith("unknown data set") and "digits" in bad
    assert all("data.name" in message and "\n" not in message for message in (cifar, wrong, text, bad))
    assert not any(tmp_path.iterdir())


def test_the_test_part_comes_in_the_official_order():
    """TFDS shuffles as it writes; CIFAR's examples have an id. Of the training part nothing depends on it."""

    class Source(list):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

    class Builder:
        def __init__(self, ids):
            label = types.SimpleNamespace(num_classes=3)
            parts = {part: types.SimpleNamespace(num_examples=3) for part in ("train", "test")}
            self.info = types.SimpleNamespace(splits=parts, features={"label": label})
            self.examples = [{"image": np.full((2, 2, 1), i, np.uint8), "label": i} for i in (2, 0, 1)]
            for example, i in zip(self.examples, ids, strict=True):
                example["id"] = i

        def as_data_source(self, part):
            return Source(self.examples)

    for ids, part, expected in (
        ([b"test_00002", b"test_00000", b"test_00001"], "test", [0, 1, 2]),
        ([b"", b"", b""], "test", [2, 0, 1]),
        ([b"train_2", b"train_0", b"train_1"], "train", [2, 0, 1]),
    ):
        split = _split(None, Builder(ids), part, "image", "label", Cut(), "data.name")
        assert split.label.tolist() == split.image[:, 0, 0, 0].tolist() == expected
