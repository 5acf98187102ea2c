"""Images that stream: the same batches as from memory, whoever decodes them, wherever one begins, and never all at once."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from advjax.data import Course, Cut, epoch_order, load, split_validation, stream, subset
from advjax.data.pictures import Pictures, _random_box
from advjax.errors import InputError
from tests.commands import ROOT

SIZE, CLASSES, EACH = 32, 4, 80
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """320 training pictures of 32 x 32 in 4 classes, some larger ones to test on."""
    root = tmp_path_factory.mktemp("pictures")
    for part, each, sides in (("train", EACH, (SIZE, SIZE)), ("val", 3, (40, 56))):
        for label in range(CLASSES):
            place = root / part / f"class{label}"
            place.mkdir(parents=True)
            for i in range(each):
                # In colour, so that an array of all would have three channels, too.
                blocks = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(blocks).resize(sides[::-1], Image.Resampling.NEAREST).save(place / f"{i:03d}.png")
    return root


@pytest.fixture(scope="module")
def streamed(folder):
    return load("image_folder", folder, image_size=SIZE, streaming=True)


@pytest.fixture(scope="module")
def resident(folder):
    return load("image_folder", folder, image_size=SIZE, streaming="False")


def batches(train, **options):
    given = {"seed": 5, "batch_size": 48, "epochs": 2, **options}
    workers = given.pop("workers", 0)
    return list(stream(train, Course(count=len(train.label), **given), workers))


def test_pictures_stand_for_the_array(streamed, resident):
    assert not streamed.train.in_memory and resident.train.in_memory
    assert streamed.image_shape == resident.image_shape and streamed.classes == resident.classes
    for one, other in ((streamed.train, resident.train), (streamed.test, resident.test)):
        assert one.image.shape == other.image.shape and one.image.dtype == other.image.dtype
        np.testing.assert_array_equal(one.label, other.label)
        np.testing.assert_array_equal(one.image[3:9], other.image[3:9])
        np.testing.assert_array_equal(one.image[np.array([7, 2])], other.image[[7, 2]])
        np.testing.assert_array_equal(one.image[5], other.image[5])
        np.testing.assert_array_equal(np.asarray(one.first(4).image), other.image[:4])
    for select in (lambda split: subset(split, 40), lambda split: split_validation(split, 30, 1)[0]):
        one, other = select(streamed.train), select(resident.train)
        assert isinstance(one.image, Pictures)
        np.testing.assert_array_equal(one.image[:], other.image)
        np.testing.assert_array_equal(one.label, other.label)
    assert streamed.train.image.identity() != streamed.train.first(300).image.identity()


def test_size_decides(folder, monkeypatch):
    def in_memory(**options):
        return load("image_folder", folder, image_size=SIZE, **options).train.in_memory

    assert in_memory() and in_memory(streaming="auto") and not in_memory(crop="random")
    monkeypatch.setattr("advjax.data.sources._IN_MEMORY", 320 * SIZE * SIZE * 3 - 1)
    assert not in_memory() and in_memory(streaming=False)


def test_batches_are_those_of_the_epoch_order(streamed, resident):
    found = batches(streamed.train)
    orders = [epoch_order(5, epoch, 320, 48) for epoch in range(2)]
    rows, weight = (np.concatenate(each) for each in zip(*orders, strict=True))
    assert len(found) == 14
    for batch, own, weights in zip(found, rows, weight, strict=True):
        np.testing.assert_array_equal(batch.rows, own)
        np.testing.assert_array_equal(batch.weight, weights)
        np.testing.assert_array_equal(batch.image, resident.train.image[own])
        np.testing.assert_array_equal(batch.label, resident.train.label[own])


def test_processes_a_later_step_and_hosts_give_the_same_batches(folder):
    train = load("image_folder", folder, image_size=24, crop="random").train
    whole = batches(train)
    for step, batch in enumerate(batches(train, workers=2, first=5), start=5):
        np.testing.assert_array_equal(batch.image, whole[step].image)
    parts = [batches(train, host=(index, 3), first=12) for index in range(3)]
    for step, hosts in enumerate(zip(*parts, strict=True), start=12):
        for field, one in enumerate(whole[step]):
            np.testing.assert_array_equal(np.concatenate([host[field] for host in hosts]), one)
    with pytest.raises(InputError, match=r"^batch_size must be a multiple of the 5 hosts, it is 48$"):
        batches(train, host=(0, 5))


def test_signals_to_all_processes_leave_the_workers_at_work(folder):
    """As terminals and schedulers send them, from a worker's first moment on."""
    hit, over = set(), threading.Event()

    def strike():
        while not over.wait(0.01):
            for pid in {each.pid for each in multiprocessing.active_children()} - hit:
                hit.add(pid)
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)

    striking = threading.Thread(target=strike)
    striking.start()
    try:
        train = load("image_folder", folder, image_size=24, streaming="True").train
        assert len(batches(train, workers=2, epochs=1)) == 7 and len(hit) == 2
    finally:
        over.set()
        striking.join()


UNCLOSED = """
import sys
from advjax.data import Course, load, stream
if __name__ == "__main__":
    train = load("image_folder", sys.argv[1], image_size=8, streaming="True").train
    batches = stream(train, Course(seed=0, count=len(train.label), batch_size=32, epochs=9), workers=2)
    print(next(batches).image.shape)
"""


def test_a_script_that_leaves_its_stream_open_ends_without_a_word(folder, tmp_path):
    (tmp_path / "script.py").write_text(UNCLOSED)
    command = [sys.executable, str(tmp_path / "script.py"), str(folder)]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(32, 8, 8, 3)\n", "")


def test_the_set_is_never_in_memory_at_once(streamed, monkeypatch):
    most = 0

    def empty(shape, dtype=float, made=np.empty):
        nonlocal most
        most = max(most, int(np.prod(shape)))
        return made(shape, dtype)

    monkeypatch.setattr(np, "empty", empty)
    monkeypatch.setattr(Pictures, "__array__", None)
    whole = int(np.prod(streamed.train.image.shape))
    assert sum(len(batch.image) for batch in batches(streamed.train, epochs=1)) == 336
    train, validation, _ = split_validation(streamed.train, 10, 0)
    assert validation.image[:].shape == (10, SIZE, SIZE, 3) and most < whole / 10
    # Nor do workers get it.
    assert len(pickle.dumps(train.image)) < whole / 10


def test_random_crops_are_drawn_anew_for_each_epoch_and_example():
    image = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3).astype(np.uint8)
    cut = Cut(16, crop="random")
    one = cut.sample(image, 0, 1, 2)
    assert one.shape == (16, 16, 3) and (one == cut.sample(image, 0, 1, 2)).all()
    for other in ((0, 1, 3), (0, 2, 2), (1, 1, 2)):
        assert (one != cut.sample(image, *other)).any()
    assert cut.whole(image).shape == (16, 16, 3)
    boxes = np.array([_random_box(300, 400, draws) for draws in RNG.random((4000, 40))])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 300).all() and (left + width <= 400).all()
    area, ratio = height * width / 120_000, width / height
    assert 0.079 < area.min() < 0.09 and area.max() > 0.95 and 0.74 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.35
    # No trial fits: the largest centred part with an aspect ratio of 4/3, as torchvision.
    assert _random_box(30, 400, np.full(8, 0.99)) == (0, 180, 30, 40)


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(folder):
    (picture,) = load("image_folder", folder, image_size=32, resize=36).test.image[:1]
    with Image.open(folder / "val/class0/000.png") as image:
        resized = np.asarray(image.resize((50, 36), Image.Resampling.BILINEAR))  # 40 x 56 -> 36 x int(50.4)
    np.testing.assert_array_equal(picture, resized[2:34, 9:41])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streaming": "yes"}, r"^data\.streaming must be a choice, it is 'yes'; allowed: False, True, auto$"),
        ({"crop": "corner"}, r"^data\.crop must be a choice, it is 'corner'; .*allowed: centre, random$"),
        (
            {"image_size": 0, "crop": "random"},
            r"^data\.image_size is 0; allowed with data\.crop=random: integers from 1",
        ),
        ({"resize": 8}, r"^data\.resize is 8; allowed: from data\.image_size, 32, on, or 0$"),
        ({"crop": "random", "streaming": False}, r"^data\.crop: random crops are cut as images stream"),
        ({"name": "npz", "path": "x.npz", "streaming": True, "image_size": 0}, r"'streaming'; allowed: num_classes$"),
    ],
)
def test_what_cannot_stream_is_refused(folder, options, message):
    given = {"name": "image_folder", "path": folder, "image_size": SIZE, **options}
    with pytest.raises(InputError, match=message):
        load(**given)


def test_a_damaged_picture_is_one_line_whoever_finds_it(folder, tmp_path):
    for label, name in ((0, "a.png"), (1, "b.png")):
        for part in ("train", "val"):
            place = tmp_path / part / str(label)
            place.mkdir(parents=True)
            Image.new("RGB", (8, 8), (label, 90, 200)).save(place / name)
    train = load("image_folder", tmp_path, streaming=True).train
    (tmp_path / "train/1/b.png").write_bytes(b"\x89PNG no more")
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^data\.path: \S+/train/1/b\.png is not a readable image \(\w+\)$"):
            batches(train, batch_size=2, workers=workers)
    Image.new("RGB", (8, 9)).save(tmp_path / "train/1/b.png")
    with pytest.raises(
        InputError, match=r"b\.png has the shape \(9, 8, 3\), others have \(8, 8, 3\); allowed: one shape"
    ):
        batches(train, batch_size=2)
