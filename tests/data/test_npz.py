import io
import os
import zipfile

import numpy as np
import pytest

from advjax.data import load
from advjax.errors import InputError

RNG = np.random.default_rng(0)


def images(n=6, shape=(4, 5, 3), dtype=np.uint8):
    return RNG.integers(0, 256, (n, *shape)).astype(dtype)


def labels(n=6, classes=3):
    return (np.arange(n) % classes).astype(np.uint8)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def one_file(folder, **replaced):
    arrays = {"x_train": images(), "y_train": labels(), "x_test": images(3), "y_test": labels(3), **replaced}
    return save(folder / "all.npz", **{key: value for key, value in arrays.items() if value is not None})


def test_one_file(tmp_path):
    train, test = images(), images(3)
    data = load("npz", one_file(tmp_path, x_train=train, x_test=test, y_train=labels()[:, None]))
    np.testing.assert_array_equal(data.train.image, train)
    np.testing.assert_array_equal(data.test.image, test)
    np.testing.assert_array_equal(data.train.label, labels())
    assert data.train.label.dtype == data.test.label.dtype == np.int32
    assert (data.name, data.num_classes, data.image_shape, data.classes) == ("npz", 3, (4, 5, 3), ())


def test_shards_in_natural_order(tmp_path):
    parts = {number: images(2) for number in (0, 2, 10)}
    for number, image in parts.items():
        save(tmp_path / f"train_{number}.npz", image=image, label=labels(2), lossy=np.zeros(2, bool))
    save(tmp_path / "test.npz", x_test=images(1), y_test=labels(1))
    data = load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train.image, np.concatenate([parts[0], parts[2], parts[10]]))
    assert (data.name, data.num_classes, len(data.test.label)) == ("cifar10", 10, 1)


def test_grey_images_get_a_channel(tmp_path):
    data = load("npz", one_file(tmp_path, x_train=images(shape=(4, 5)), x_test=images(3, (4, 5))), num_classes=7)
    assert (data.image_shape, data.num_classes) == ((4, 5, 1), 7)


def test_wide_integers_become_uint8(tmp_path):
    image = images(dtype=np.int64)
    image[0, 0, 0] = 0, 255, 7
    data = load("npz", one_file(tmp_path, x_train=image))
    assert data.train.image.dtype == np.uint8
    np.testing.assert_array_equal(data.train.image, image)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"x_train": images(dtype=np.float32) / 255}, r"images are float32; allowed: integers in \[0, 255\]"),
        ({"x_train": images(dtype=np.float32)}, "images are float32"),
        ({"x_test": images(3, dtype=np.int32) + 1000}, r"\(test\): image values run from 10.* to 1.*allowed"),
        ({"x_train": images(dtype=np.int16) - 300}, "image values run from -"),
        ({"x_train": np.zeros((6, 4, 5, 3), bool)}, "images are bool"),
        ({"x_train": images(shape=(3, 4, 5))}, r"shape \(6, 3, 4, 5\)"),
        ({"x_train": images(shape=(60,))}, "allowed: .N, H, W"),
        ({"x_train": images(0), "y_train": labels(0)}, "no images"),
        ({"x_test": images(3, (5, 5, 3))}, r"different shapes: \(4, 5, 3\) in .*\(5, 5, 3\) in .*\(test\)"),
        ({"y_train": labels(5)}, "6 images but 5 labels"),
        ({"y_train": labels().astype(np.float32)}, "labels are float32"),
        ({"y_train": labels().astype(int) - 1}, r"labels run from -1 to 1"),
        ({"y_train": labels().astype("m8[s]")}, "labels are timedelta64"),
        ({"x_train": images().astype("m8[s]")}, "images are timedelta64"),
        ({"y_train": np.eye(6, dtype=int)}, r"labels have the shape \(6, 6\)"),
        ({"y_test": np.array([0, 1, 3])}, r"\(test\): labels run from 0 to 3; allowed: 0\.\.2 \(3 classes\)"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 255])}, r"training labels reach 255.*data\.num_classes"),
        ({"x_test": None, "y_test": None}, "no test part: looked for the arrays x_test and y_test, found x_train"),
        ({"y_train": None}, "no train part.*found x_train, x_test, y_test"),
        ({"x_train": np.array([{}, {}], object)}, "pickled objects"),
    ],
)
def test_refuses_in_one_line_that_names_field_and_file(tmp_path, replaced, message):
    path = one_file(tmp_path, **replaced)
    with pytest.raises(InputError, match=message) as error:
        load("npz", path)
    assert "data.path" in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_known_classes_bound_the_labels(tmp_path):
    path = one_file(tmp_path, y_train=np.array([0, 1, 2, 3, 4, 10]))
    with pytest.raises(InputError, match=r"labels run from 0 to 10; allowed: 0\.\.9"):
        load("cifar10", path)
    assert load("cifar100", path).num_classes == 100
    with pytest.raises(InputError, match=r"allowed: 0\.\.3 \(4 classes\)"):
        load("npz", path, num_classes=4)


def test_shards_of_different_shapes(tmp_path):
    save(tmp_path / "train_0.npz", image=images(), label=labels())
    save(tmp_path / "train_1.npz", image=images(shape=(4, 4, 3)), label=labels())
    save(tmp_path / "test.npz", image=images(), label=labels())
    with pytest.raises(InputError, match=r"\(4, 5, 3\) in .*train_0.*\(4, 4, 3\) in .*train_1"):
        load("npz", tmp_path)


def test_missing_file_or_part(tmp_path):
    with pytest.raises(InputError, match=r"data\.path: .*nowhere does not exist"):
        load("npz", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no train part.*looked for train\*\.npz, found no \.npz file"):
        load("npz", tmp_path)
    save(tmp_path / "train.npz", image=images(), label=labels())
    with pytest.raises(InputError, match=r"no test part.*looked for test\*\.npz, found train\.npz"):
        load("npz", tmp_path)
    with pytest.raises(InputError, match="found image, label; image and label go into"):
        load("npz", tmp_path / "train.npz")
    with pytest.raises(InputError, match=r"data\.path: a*: File name too long"):
        load("npz", "a" * 300)
    with pytest.raises(InputError, match=r"data\.path: none given"):
        load("npz")


def test_corrupt_files(tmp_path):
    path = one_file(tmp_path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200] ^= 255
    for content in (b"", b"no archive", whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"data\.path: .*all\.npz .*not a readable npz file"):
            load("npz", path)
    np.save(tmp_path / "single.npy", images())
    with pytest.raises(InputError, match="single array"):
        load("npz", tmp_path / "single.npy")


def header(shape, descr="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def archive(path, compression=zipfile.ZIP_STORED, **members):
    """An npz file of bytes that need be no arrays."""
    with zipfile.ZipFile(path, "w", compression) as written:
        for name, content in members.items():
            written.writestr(f"{name}.npy", content)
    return path


def twice(path):
    """As a script that appends to an archive leaves it; NumPy would take the later one."""
    os.replace(one_file(path.parent), path)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("y_train.npy", header((9,)) + bytes(9))


def encrypted(path):
    """As a zip program with a password would mark its members."""
    content = bytearray(one_file(path.parent).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(signature, place + 1)
    path.write_bytes(content)


def claiming(path, size):
    """A member whose entry claims more bytes than there are, in zip's own directory."""
    archive(path, zipfile.ZIP_DEFLATED, x_train=header((size,)) + bytes(99), y_train=header((1,)) + b"0")
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    content[place + 24 : place + 28] = min(size + 128, 2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: archive(p, x_train=header((10**12, 32, 32, 3)) + bytes(9)), "header of shape .*do not fit"),
        (lambda p: archive(p, x_train=header((10**300,)) + bytes(9)), "header of shape .*do not fit"),
        (lambda p: archive(p, x_train=header((-4, 2)) + bytes(8)), "header of shape .*do not fit"),
        (lambda p: archive(p, x_train=header((9,), "O") + bytes(72)), "pickled objects"),
        (lambda p: claiming(p, 2**32), "claims 4294967294 bytes, more than the file's .* can hold"),
        (lambda p: archive(p, zipfile.ZIP_LZMA, x_train=header((9,)) + bytes(9)), "compressed by zip's method 14"),
        (encrypted, "encrypted"),
        (twice, "array 'y_train' is in it twice"),
        (lambda p: archive(p, x_train=b""), "array 'x_train' has no header that NumPy reads"),
        (
            lambda p: archive(p, x_train=header((9,)).replace(b"shape", b"sh)pe") + bytes(9)),
            "array 'x_train' has no header that NumPy reads",
        ),
        (
            lambda p: archive(p, x_train=b"\x93NUMPY\x01\x00\x40\x00" + b"(" * 64),
            "array 'x_train' has no header that NumPy reads",
        ),
        (
            lambda p: archive(p, x_train=b"\x93NUMPY\x07\x00" + bytes(99)),
            "array 'x_train' has no header that NumPy reads",
        ),
        (lambda p: os.mkfifo(p), "neither a file nor a directory"),
    ],
)
def test_hostile_files_cost_no_memory_and_do_not_hang(tmp_path, make, message):
    path = tmp_path / "hostile.npz"
    make(path)
    with pytest.raises(InputError, match=message) as error:
        load("npz", path)
    assert str(error.value).startswith("data.path") and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_headers_of_every_version(tmp_path):
    content = [io.BytesIO() for _ in range(3)]
    for stream, version in zip(content, ((1, 0), (2, 0), (3, 0)), strict=True):
        np.lib.format.write_array(stream, images(), version)
    last = header((6,)) + bytes(labels())
    for stream in content:
        path = archive(
            tmp_path / "all.npz", x_train=stream.getvalue(), y_train=last, x_test=stream.getvalue(), y_test=last
        )
        assert load("npz", path).image_shape == (4, 5, 3)


def test_a_pipe_among_the_shards(tmp_path):
    os.mkfifo(tmp_path / "train_0.npz")
    save(tmp_path / "test.npz", image=images(), label=labels())
    with pytest.raises(InputError, match=r"train_0\.npz .*no regular file"):
        load("npz", tmp_path)


def test_more_than_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("advjax.data.base.os.sysconf", lambda name: 10)
    with pytest.raises(InputError, match=r"data\.path: .*all\.npz takes 0\.0 GB, this machine has 0\.0 GB"):
        load("npz", one_file(tmp_path))


def test_what_may_be_meant_is_warned_about(tmp_path):
    def warnings(**replaced):
        data = load("npz", one_file(tmp_path, **replaced))
        assert all(line.startswith("data.path: ") and "\n" not in line for line in data.warnings)
        return data.warnings

    assert warnings() == ()
    (line,) = warnings(y_train=labels() + 1)
    assert "labels run from 1 to 3, without a 0" in line
    (line,) = warnings(y_train=labels() * 0, y_test=labels(3) * 0)
    assert "a single class" in line
    train = images()
    (line,) = warnings(x_train=train, x_test=train[3:])
    assert "3 of 3 test images are training images" in line
    train[4] = train[1]
    (line,) = warnings(x_train=train)
    assert "1 of 6 training images repeat" in line
    with pytest.raises(InputError, match=r"all training images are 0 or 1, .*multiply by 255"):
        warnings(x_train=images() % 2)
    with pytest.raises(InputError, match="all test images are 0 or 1"):
        warnings(x_test=images(3) % 2)


def test_the_same_shard_twice_and_one_that_is_not_read(tmp_path):
    for name in ("train_0", "train_1"):
        save(tmp_path / f"{name}.npz", image=np.arange(200, dtype=np.uint8).reshape(2, 10, 10), label=labels(2))
    save(tmp_path / "test.npz", image=images(2, (10, 10)), label=labels(2))
    save(tmp_path / "valid.npz", image=images(2, (10, 10)), label=labels(2))
    unread, repeated = load("npz", tmp_path).warnings
    assert "valid.npz" in unread and "2 of 4 training images repeat an earlier one" in repeated


def test_cifar10(test_data):
    data = load("cifar10", test_data / "cifar10")
    assert data.train.image.shape == (50_000, 32, 32, 3) and data.test.image.shape == (10_000, 32, 32, 3)
    assert data.train.image.dtype == np.uint8 and data.num_classes == 10
    assert (np.bincount(data.train.label) == 5000).all() and (np.bincount(data.test.label) == 1000).all()
    # The channel means that everybody normalises CIFAR-10 by.
    means = data.train.image.reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-4)


def test_mnist(test_data):
    data = load("mnist", test_data / "mnist.npz")
    assert data.train.image.shape == (60_000, 28, 28, 1) and data.test.image.shape == (10_000, 28, 28, 1)
    np.testing.assert_allclose(data.train.image.mean() / 255, 0.1307, atol=1e-4)
