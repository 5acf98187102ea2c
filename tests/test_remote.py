"""Data at an address: copied to this machine once for every version of it."""

import fsspec
import numpy as np
import pytest
from PIL import Image

from advjax import data, remote
from advjax.errors import InputError

STORE = fsspec.filesystem("memory")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The names of what was copied, a list for every time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found, get = [], remote.Store.get

    def counted(self, names, folder):
        found.append(sorted(names))
        get(self, names, folder)

    monkeypatch.setattr(remote.Store, "get", counted)
    yield found
    STORE.store.clear()
    STORE.pseudo_dirs[:] = [""]


def archive(tmp_path, seed, **more):
    """Puts an npz file of both parts and of extra images; gives the training images."""
    image = np.random.default_rng(seed).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    label = np.arange(12) % 3
    file = tmp_path / "d.npz"
    np.savez(file, x_train=image, y_train=label, x_test=image[::-1], y_test=label, image=image, label=label)
    STORE.put_file(str(file), "/bucket/data/train-1.npz")
    return image


def test_a_file_is_copied_once_and_again_when_it_changed(copied, tmp_path):
    address = "memory://bucket/data/train-1.npz"
    for seed in (0, 1):
        image = archive(tmp_path, seed)
        for _ in range(2):
            assert np.array_equal(data.load("npz", address).train.image, image)
        assert np.array_equal(data.read_extra(address, (4, 4, 3), 3).image, image)
    assert copied == [[""], [""]]


def test_folders_are_copied_whole_or_not_at_all(copied, tmp_path, monkeypatch):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / "set" / part / label).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / "set" / part / label / "0.png")
    STORE.put(str(tmp_path / "set"), "/bucket/set", recursive=True)
    read = type(STORE).get_file

    def torn(self, rpath, lpath, **options):
        if "test/b" in rpath:
            raise TimeoutError("the line is dead")
        read(self, rpath, lpath, **options)

    with (
        monkeypatch.context() as patch,
        pytest.raises(
            InputError, match=r"data.path: memory://bucket/set cannot be read: TimeoutError: the line is dead"
        ),
    ):
        patch.setattr(type(STORE), "get_file", torn)
        data.load("image_folder", "memory://bucket/set")
    for _ in range(2):
        loaded = data.load("image_folder", "memory://bucket/set/", streaming="True")
        assert loaded.num_classes == 2 and not loaded.train.in_memory
        assert np.array_equal(loaded.test.image[:1][0], pixels)
    assert copied == [[f"{part}/{label}/0.png" for part in ("test", "train") for label in "ab"]] * 2
    STORE.pipe_file("/bucket/set/../stray", b"")
    with pytest.raises(InputError, match=r"holds '../stray', which is no file's name here"):
        remote.local("memory://bucket/set", "data.path")


def test_paths_stay_what_they_are(tmp_path):
    assert remote.local(tmp_path, "data.path") == tmp_path and not remote.is_address("C:/data")
    with pytest.raises(InputError, match=r"data\.path: there is nothing at memory://bucket/none"):
        data.load("npz", "memory://bucket/none")
