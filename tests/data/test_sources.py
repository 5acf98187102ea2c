import subprocess
import sys

import numpy as np
import pytest

from advjax.data import load, names
from advjax.errors import InputError


def test_names_hold_the_registered_sources():
    assert {"digits", "npz", "image_folder", "cifar10", "cifar100", "mnist"} <= set(names())


def test_digits():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert (data.name, data.num_classes, data.image_shape) == ("digits", 10, (8, 8, 1))
    assert len(data.train.label) == 1437 and len(data.test.label) == 360
    assert data.train.image.dtype == np.uint8 and data.train.label.dtype == np.int32
    assert np.bincount(data.test.label).min() >= 35
    # Together both parts are all of scikit-learn's images, each once, with their labels.
    raw = load_digits()
    found = [(image.tobytes(), label) for part in (data.train, data.test) for image, label in zip(*part, strict=True)]
    pixels = np.round(raw.data * 255 / 16).astype(np.uint8)
    assert sorted(found) == sorted((image.tobytes(), label) for image, label in zip(pixels, raw.target, strict=True))
    np.testing.assert_array_equal(load("digits").test.label, data.test.label)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"image_size": 4}, r"image_size.*allowed: none"),
        ("npz", {"path": "x.npz", "image_size": 4}, r"image_size.*allowed: num_classes"),
        ("npz", {"path": "x.npz", "num_classes": -3}, r"data\.num_classes is -3"),
        ("image_folder", {}, r"data\.path: none given"),
        ("mnist", {"imagesize": 4}, "did you mean image_size"),
    ],
)
def test_refuses_options_that_do_not_apply(name, options, message):
    with pytest.raises(InputError, match=message):
        load(name, **options)


def test_empty_options_mean_not_given():
    assert load("digits", path="", data_dir=None, num_classes=0, image_size=0).num_classes == 10


def test_importing_data_imports_nothing_heavy():
    code = (
        "import sys, advjax.data; "
        "print({'tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL', 'matplotlib', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
