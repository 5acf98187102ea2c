import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from advjax.data import load
from advjax.data.base import fit
from advjax.errors import InputError

RNG = np.random.default_rng(0)


def write(path, shape=(6, 5, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image.reshape(*shape[:2], -1)


def imagenet(root, test="val", shape=(6, 5, 3)):
    return {
        name: write(root / name, shape)
        for name in (
            "train/dog/b.png",
            "train/cat/z.png",
            "train/cat/a.PNG",
            f"{test}/cat/1.png",
            f"{test}/dog/2.png",
        )
    }


@pytest.mark.parametrize("test", ["val", "test"])
def test_imagenet_layout(tmp_path, test):
    written = imagenet(tmp_path, test)
    (tmp_path / "train/cat/readme.txt").write_text("no image")
    (tmp_path / "train/list.csv").write_text("no image")
    (tmp_path / "train/cat/._a.PNG").write_text("what macOS leaves behind")
    (tmp_path / "train/cat/.hidden").mkdir()
    (tmp_path / "train/cat/.hidden/0.png").write_text("a preview")
    data = load("image_folder", tmp_path)
    assert data.classes == ("cat", "dog") and data.num_classes == 2 and data.image_shape == (6, 5, 3)
    expected = [written[name] for name in ("train/cat/a.PNG", "train/cat/z.png", "train/dog/b.png")]
    np.testing.assert_array_equal(data.train.image, expected)
    assert data.train.label.tolist() == [0, 0, 1] and data.train.label.dtype == np.int32
    (line,) = data.warnings
    assert (
        line.startswith("data.path") and "2 entries were not read (.csv 1, .txt 1), train/list.csv among them" in line
    )
    np.testing.assert_array_equal(data.test.image, [written[f"{test}/cat/1.png"], written[f"{test}/dog/2.png"]])
    assert data.test.label.tolist() == [0, 1]


def test_test_part_goes_before_validation(tmp_path):
    written = imagenet(tmp_path, "test")
    write(tmp_path / "val/cat/1.png")
    data = load("image_folder", tmp_path)
    np.testing.assert_array_equal(data.test.image[0], written["test/cat/1.png"])


def test_tiny_imagenet_layout(tmp_path):
    first = write(tmp_path / "train/n02/images/n02_0.png")
    second = write(tmp_path / "train/n01/images/n01_0.png")
    held = [write(tmp_path / f"val/images/val_{i}.png") for i in range(2)]
    write(tmp_path / "test/images/test_0.png")
    (tmp_path / "val/val_annotations.txt").write_text("val_0.png\tn02\t0\t0\t62\t57\nval_1.png\tn01\t3\t3\t9\t9\n")
    data = load("tiny_imagenet", tmp_path)
    assert (data.name, data.classes) == ("tiny_imagenet", ("n01", "n02"))
    np.testing.assert_array_equal(data.train.image, [second, first])
    np.testing.assert_array_equal(data.test.image, held)
    assert data.train.label.tolist() == [0, 1] and data.test.label.tolist() == [1, 0]

    (tmp_path / "val/val_annotations.txt").write_text("val_0.png\tn02\t0\t0\t62\t57\nval_1.png\tn09\t3\t3\t9\t9\n")
    with pytest.raises(InputError, match=r"val_annotations\.txt, line 2: .*n09"):
        load("tiny_imagenet", tmp_path)
    (tmp_path / "val/val_annotations.txt").write_text("val_0.png\tn02\t0\t0\t62\t57\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"data\.path: .*val_annotations\.txt is not in UTF-8"):
        load("tiny_imagenet", tmp_path)
    (tmp_path / "val/val_annotations.txt").write_text("val_0.png\tn02\t0\t0\t62\t57\n", encoding="utf-8-sig")
    assert load("tiny_imagenet", tmp_path).test.label.tolist() == [1]
    os.mkfifo(tmp_path / "val/images/pipe.png")
    (tmp_path / "val/val_annotations.txt").write_text("pipe.png\tn02\n")
    with pytest.raises(InputError, match=r"data\.path: .*pipe\.png does not exist or is no regular file"):
        load("tiny_imagenet", tmp_path)


def test_all_grey_images_have_one_channel(tmp_path):
    written = imagenet(tmp_path, shape=(6, 5))
    data = load("image_folder", tmp_path)
    assert data.image_shape == (6, 5, 1)
    np.testing.assert_array_equal(data.train.image[0], written["train/cat/a.PNG"])
    # One colour image anywhere, and all of them are RGB.
    write(tmp_path / "val/dog/3.png", (6, 5, 3))
    data = load("image_folder", tmp_path)
    assert data.image_shape == (6, 5, 3)
    np.testing.assert_array_equal(data.train.image[0], np.repeat(written["train/cat/a.PNG"], 3, axis=-1))


def test_image_size_crops_the_centre_and_resizes(tmp_path):
    imagenet(tmp_path)
    wide = write(tmp_path / "train/dog/wide.png", (8, 20, 3))
    with pytest.raises(InputError, match=r"wide\.png has the shape \(8, 20, 3\), .*a\.PNG has \(6, 5, 3\)") as error:
        load("image_folder", tmp_path)
    assert "data.path" in str(error.value) and "data.image_size" in str(error.value)
    with pytest.raises(InputError, match=r"data\.image_size: 10{9}: one image takes 3000000000\.0 GB"):
        load("image_folder", tmp_path, image_size=10**9)
    data = load("image_folder", tmp_path, image_size=4)
    assert data.image_shape == (4, 4, 3) and data.train.image.dtype == np.uint8
    # The shorter side scaled to 4 pixels, then the middle four columns of ten.
    scaled = np.asarray(Image.fromarray(wide).resize((10, 4), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(data.train.image[-1], scaled[:, 3:7].astype(float), atol=1)


def test_fit_keeps_an_image_of_the_right_size():
    for channels in (1, 3, 4):
        image = RNG.integers(0, 256, (6, 6, channels), dtype=np.uint8)
        np.testing.assert_array_equal(fit(image, 6), image)
        np.testing.assert_array_equal(fit(image, None), image)


def test_parts_of_different_shapes(tmp_path):
    for name, shape in (("train/a/0.png", (6, 5, 3)), ("val/a/0.png", (5, 5, 3))):
        write(tmp_path / name, shape)
    with pytest.raises(InputError, match=r"training images have the shape \(6, 5, 3\), test images \(5, 5, 3\)"):
        load("image_folder", tmp_path)


def test_refuses_what_is_no_image_folder(tmp_path):
    def refused(message):
        with pytest.raises(InputError, match=message) as error:
            load("image_folder", tmp_path)
        assert str(error.value).startswith("data.path") and "\n" not in str(error.value)

    refused("no folder .*train")
    (tmp_path / "train/cat").mkdir(parents=True)
    refused("no images in .*cat")
    write(tmp_path / "train/cat/0.png")
    refused("no test part")
    (tmp_path / "val").mkdir()
    refused("test part of .* is empty")
    write(tmp_path / "val/cow/0.png")
    refused("cow is not among the 1 classes")
    (tmp_path / "val/cow").rename(tmp_path / "val/cat")
    load("image_folder", tmp_path)
    (tmp_path / "train/cat/1.png").write_bytes(b"no image")
    refused(r"1\.png is not a readable image")
    (tmp_path / "train/cat/1.png").write_bytes((tmp_path / "train/cat/0.png").read_bytes()[:70])
    refused(r"1\.png is not a readable image")
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(tmp_path / "train/cat/1.png")
    refused("allowed: 8 bits per channel")
    frames = [Image.new("RGB", (5, 6), colour) for colour in ("red", "blue")]
    for kind in ("png", "webp", "tiff"):
        (tmp_path / "train/cat/1.png").unlink(missing_ok=True)
        frames[0].save(tmp_path / f"train/cat/2.{kind}", save_all=True, append_images=frames[1:])
        refused(rf"2\.{kind} has 2 pictures; allowed: one a file")
        (tmp_path / f"train/cat/2.{kind}").unlink()


def test_pipes_devices_and_links_are_not_followed(tmp_path):
    written = imagenet(tmp_path)
    os.mkfifo(tmp_path / "train/cat/pipe.png")
    (tmp_path / "train/cat/zero.png").symlink_to("/dev/zero")
    (tmp_path / "train/cat/around").symlink_to(tmp_path)
    (tmp_path / "train/itself").symlink_to("itself")
    data = load("image_folder", tmp_path)
    np.testing.assert_array_equal(data.train.image[1], written["train/cat/z.png"])
    assert len(data.train.label) == 3 and "4 entries were not read" in data.warnings[0]
    # A class may lie elsewhere, but not around the folder that names it.
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere/0.png")
    (tmp_path / "train/linked").symlink_to(tmp_path / "elsewhere")
    assert load("image_folder", tmp_path).classes == ("cat", "dog", "linked")
    (tmp_path / "train/loop").symlink_to("..")
    with pytest.raises(InputError, match=r"data\.path: .*loop is a symbolic link to a folder around it"):
        load("image_folder", tmp_path)


def test_pictures_that_claim_too_much_and_formats_that_run_programs(tmp_path):
    imagenet(tmp_path)
    file = tmp_path / "train/cat/a.PNG"
    file.write_bytes(b"P5 50000 50000 255\n" + bytes(10))
    with pytest.raises(InputError, match=r"data\.path: .*a\.PNG claims more pixels than is safe"):
        load("image_folder", tmp_path)
    file.write_bytes(b"P5 10000 10000 255\n" + bytes(10))
    with pytest.raises(InputError, match=r"a\.PNG claims more pixels than is safe"):
        load("image_folder", tmp_path)
    # EPS is handed to Ghostscript where there is one; nothing is read that is not one of the named formats.
    for kind in ("EPS", "PCX"):
        Image.new("RGB", (5, 6)).save(file, kind)
        with pytest.raises(InputError, match=r"a\.PNG is not a readable image"):
            load("image_folder", tmp_path)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    imagenet(tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"data\.path: .*: Permission denied \(.*train\)"):
        load("image_folder", tmp_path)


def test_num_classes_may_exceed_the_folders_but_not_undercut_them(tmp_path):
    imagenet(tmp_path)
    assert load("image_folder", tmp_path, num_classes=5).num_classes == 5
    with pytest.raises(InputError, match=r"allowed: 0\.\.0 \(1 classes\)"):
        load("image_folder", tmp_path, num_classes=1)
