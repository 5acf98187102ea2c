import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax.data import drawn, from_rows, mixed_order, read_extra, to_rows
from advjax.errors import InputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (5, 7, 3)])
def test_rows_hold_the_images(shape):
    images = RNG.integers(0, 256, (9, *shape), dtype=np.uint8)
    rows = to_rows(images)
    assert rows.shape[1] % 128 == 0 and rows.shape[1] - np.prod(shape) < 128
    np.testing.assert_array_equal(from_rows(rows, shape), images)
    index = np.array([3, 3, 0, 8])
    chosen = jax.jit(lambda rows, index: from_rows(rows[index], shape))(jnp.asarray(rows), index)
    np.testing.assert_array_equal(chosen, images[index])


def extra_file(path, save=np.savez, image=None, label=None):
    image = RNG.integers(0, 256, (40, 4, 5, 3), dtype=np.uint8) if image is None else image
    label = np.arange(len(image)) % 3 if label is None else label
    save(path, other=np.zeros(7), image=image, label=label)
    return image, label


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_extra_images_are_mapped_where_they_can_be(tmp_path, save, order):
    image = np.asarray(RNG.integers(0, 256, (40, 4, 5, 3), dtype=np.uint8), order=order)
    image, label = extra_file(tmp_path / "extra.npz", save, image)
    extra = read_extra(tmp_path / "extra.npz", (4, 5, 3), 3)
    assert isinstance(extra.image, np.memmap) == (save is np.savez) and extra.label.dtype == np.int32
    np.testing.assert_array_equal(extra.image, image)
    np.testing.assert_array_equal(extra.label, label)


def test_the_extra_images_of_an_epoch(tmp_path):
    image, label = extra_file(tmp_path / "extra.npz")
    extra = read_extra(tmp_path / "extra.npz", (4, 5, 3), 3)
    index = mixed_order(0, 0, 10, 40, 8, 0.5)[0]
    place, split = drawn(extra, index, 10)
    assert type(split.image) is np.ndarray and len(split.label) == (index >= 10).sum() == 8
    np.testing.assert_array_equal(place[index < 10], index[index < 10])
    np.testing.assert_array_equal(place[index >= 10], 10 + np.arange(8))
    np.testing.assert_array_equal(split.image, image[index[index >= 10] - 10])
    np.testing.assert_array_equal(split.label, label[index[index >= 10] - 10])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((4, 4, 5, 3))}, r"images are float64 \[4, 4, 5, 3\]; allowed: uint8 \['M', 4, 5, 3\]"),
        ({"image": np.ones((4, 5, 5, 3), np.uint8)}, r"images are uint8 \[4, 5, 5, 3\]"),
        ({"image": np.ones((0, 4, 5, 3), np.uint8)}, r"images are uint8 \[0, 4, 5, 3\]"),
        ({"image": np.ones((4, 4, 5, 3), np.uint8)}, "first images are 0 or 1"),
        ({"label": np.arange(40)}, r"labels run from 0 to 39; allowed: 0\.\.2"),
        ({"label": np.arange(39) % 3}, "40 images but 39 labels"),
    ],
)
def test_extra_images_are_refused_in_one_line(tmp_path, arrays, message):
    extra_file(tmp_path / "extra.npz", **arrays)
    with pytest.raises(InputError, match=message) as error:
        read_extra(tmp_path / "extra.npz", (4, 5, 3), 3)
    assert str(error.value).startswith("data.extra.path: ") and "\n" not in str(error.value)


def test_extra_files_that_cannot_be_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr("advjax.data.npz._MOST_COMPRESSED", 1000)
    extra_file(tmp_path / "extra.npz", np.savez_compressed)
    for path, message in (("extra.npz", "cannot be mapped; allowed: .*numpy.savez"), ("none.npz", "no regular file")):
        with pytest.raises(InputError, match=f"data.extra.path: .*{message}"):
            read_extra(tmp_path / path, (4, 5, 3), 3)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="looked for the arrays image and label, found x"):
        read_extra(tmp_path / "other.npz", (4, 5, 3), 3)
