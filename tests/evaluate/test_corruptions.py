"""Corrupted images: where they come from, and the rows that they make."""

import numpy as np
import pytest

from advjax import evaluate
from advjax.data import Split, load
from advjax.errors import InputError
from advjax.evaluate import corruptions
from tests.evaluate.test_evaluate import network

RNG = np.random.default_rng(0)
TEST = Split(RNG.integers(0, 256, (12, 8, 8, 1), np.uint8), RNG.integers(0, 10, 12).astype(np.int32))


def corrupted_folder(path, count=12, kinds=("snow", "speckle_noise"), label=None):
    """Files of CIFAR-C's layout, every image's severity and number in its pixels."""
    path.mkdir()
    labels = np.zeros(count, np.int64)
    labels[:12] = TEST.label
    np.save(path / "labels.npy", np.tile(labels if label is None else label, 5))
    for kind in kinds:
        marks = 20 * np.repeat(np.arange(5), count) + np.tile(np.arange(count), 5)
        np.save(
            path / f"{kind}.npy", np.broadcast_to(marks[:, None, None, None], (5 * count, 8, 8, 1)).astype(np.uint8)
        )
    return str(path)


def test_files_are_read_severity_by_severity(tmp_path):
    kinds = corruptions.sources(corrupted_folder(tmp_path / "c", count=15))
    assert list(kinds) == ["snow", "speckle_noise"]
    first = Split(TEST.image[:4], TEST.label[:4])
    image, label = kinds["snow"](first)
    np.testing.assert_array_equal(image[:, 0, 0, 0], [20 * s + i for s in range(5) for i in range(4)])
    np.testing.assert_array_equal(label, np.tile(first.label, 5))


def test_other_folders_are_refused_in_one_line(tmp_path):
    other = corrupted_folder(tmp_path / "other", label=np.arange(12))
    short = corrupted_folder(tmp_path / "short")
    np.save(tmp_path / "short" / "labels.npy", np.tile(TEST.label, 5)[:55])
    for place, message in (
        (other, r"labels.npy is of other images than the test set's: row 0 has label 0, the test image"),
        (short, r"allowed: uint8 \[5 M, 8, 8, 1\] and 5 M labels, M at least the 12 images"),
        (
            corrupted_folder(tmp_path / "none", kinds=()),
            r"^corruptions must be a folder with labels.npy and files such as",
        ),
    ):
        with pytest.raises(InputError, match=message) as error:
            corruptions.check(place, TEST)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", sorted(corruptions.COMPUTED))
def test_computed_kinds_grow_with_severity_and_are_the_same_every_time(kind):
    split = load("digits").test
    split = Split(split.image[:200], split.label[:200])
    image, label = corruptions.compute(kind, split)
    np.testing.assert_array_equal(image, corruptions.compute(kind, split).image)
    np.testing.assert_array_equal(label, np.tile(split.label, 5))
    moved = np.abs(image.reshape(5, 200, -1) - split.image.reshape(200, -1).astype(float)).mean((1, 2))
    assert image.dtype == np.uint8 and moved[0] > 0.5 and (np.diff(moved) > 0).all()


def test_brightness_and_contrast_by_hand():
    """Brightness moves HSV's value, the largest channel, and keeps the channels' ratios; black becomes grey."""
    pixels = np.array([[[0, 0, 0], [100, 50, 0]], [[200, 200, 200], [255, 0, 0]]], np.uint8)
    split = Split(pixels[None], np.zeros(1, np.int32))
    lighter = corruptions.compute("brightness", split).image[4]  # + 0.3 of 255: 76.5
    np.testing.assert_array_equal(lighter, [[[76, 76, 76], [176, 88, 0]], [[255, 255, 255], [255, 0, 0]]])
    flatter = corruptions.compute("contrast", split).image[1]  # half way to the channels' means
    mean = pixels.mean((0, 1))
    np.testing.assert_array_equal(flatter, np.floor((pixels + mean) / 2).astype(np.uint8))


def test_rows_of_corruptions(tmp_path):
    """A row per kind, its mean and its severities; they are no attacks, and of no example's record."""
    attacks = evaluate.protocol("corruptions", "linf", "8/255", corruptions=corrupted_folder(tmp_path / "c"))
    outcomes = evaluate.run_protocol(network, attacks, TEST, batch_size=12, directory=tmp_path / "records")
    again = evaluate.run_protocol(network, attacks, TEST, batch_size=12, directory=tmp_path / "records")
    rows = []
    for attack in attacks:
        assert again[attack.name].forwards.sum() == outcomes[attack.name].forwards.sum()
        np.testing.assert_array_equal(again[attack.name].robust, outcomes[attack.name].robust)
        where = {"network": "model", "checkpoint": "last", "protocol": "corruptions", "seed": 0}
        where |= {"dtype": "float32", "device": "cpu"}
        rows.append(evaluate.result_row(attack, outcomes[attack.name], outcomes["clean"].accuracy, **where))
    snow = rows[1]
    assert (snow["attack"], snow["norm"], snow["n"], snow["w_robust"], snow["nrr"]) == (
        "snow",
        "corruption",
        60,
        None,
        None,
    )
    assert len(snow["by_severity"]) == 5 and np.mean(snow["by_severity"]) == pytest.approx(snow["accuracy"])
    assert all(set(example["attacks"]) == set() for example in evaluate.per_example(outcomes))
    for row, accuracy in zip(rows, (0.5, 0.75, 1.0), strict=True):
        row["accuracy"] = accuracy  # above the clean accuracy, which is no reason to warn
    report = evaluate.assemble("m", "h", "linf", 8 / 255, {"model": {"architecture": "a"}}, rows)
    assert report["warnings"] == []
    (figures,) = report["figures"]
    # Speckle noise is none of the fifteen.
    assert (figures["mean_corruption_error"], figures["corruptions"], figures["attack"]) == (0.25, 1, None)
    page = evaluate.markdown(report)
    assert (
        "| corruption | mean | 1 | 2 | 3 | 4 | 5 |" in page
        and "| snow | 75.00 |" in page
        and "mCE over 1 kinds" in page
    )
