from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advjax.data import augment, cutmix, parse_augment, split_cutmix, to_float
from advjax.errors import InputError

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 8, 10, 3), dtype=np.uint8)
MODES = {"crop": "constant", "reflect_crop": "reflect"}
OLD = ("none", "flip", "crop", "crop_flip", "reflect_crop_flip")
EVERYTHING = "reflect_crop2+flip+rotate30+cutout3+crop_shift4+erase60"
jitted = jax.jit(augment, static_argnames="kind")


def applied(key, images, ids, kind):
    """uint8 images as the augmentation leaves them."""
    out = np.asarray(jitted(key, images, ids, kind))
    assert out.dtype == np.float32 and out.shape == images.shape
    return np.round(out * 255).astype(np.uint8)


def copies(count):
    """One image many times, with an id for each."""
    return np.repeat(IMAGES[:1], count, axis=0), np.arange(count)


def one_by_one(key, images, ids, kind, pad=4):
    """Crops and mirroring as they were first defined: a slice at an offset of its own for each example."""
    mode = {"crop": "constant", "crop_flip": "constant", "reflect_crop_flip": "reflect"}.get(kind)

    def one(image, id):
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, id))
        if mode is not None:
            row, column = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1)
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
            image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        return jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image) if "flip" in kind else image

    return to_float(jax.vmap(one)(images, ids))


@pytest.mark.parametrize("kind", OLD)
def test_crops_and_mirroring_are_to_the_bit_what_they_were(kind):
    key, ids = jax.random.key(1), np.arange(6) + 100
    np.testing.assert_array_equal(augment(key, IMAGES, ids, kind), one_by_one(key, IMAGES, ids, kind))
    before = jax.jit(one_by_one, static_argnames="kind")(key, IMAGES, ids, kind)
    np.testing.assert_array_equal(jitted(key, IMAGES, ids, kind), before)


@pytest.mark.parametrize("kind", ["crop+flip", "reflect_crop", "crop_shift4"])
def test_accelerators_crop_without_a_loop_to_the_same_bits(monkeypatch, kind):
    key, ids = jax.random.key(1), np.arange(6)
    here = augment(key, IMAGES, ids, kind)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arguments, cpu, default: default(*arguments))
    np.testing.assert_array_equal(augment(key, IMAGES, ids, kind), here)
    # A slice at an offset of its own for each image would be a gather, which becomes a loop over the batch.
    assert "gather" not in str(jax.make_jaxpr(lambda: augment(key, IMAGES, ids, kind))())


@pytest.mark.parametrize("kind", ["crop1+flip", "reflect_crop1+flip"])
def test_offsets_and_mirroring_are_uniform(kind):
    count = 3600
    padded = np.pad(IMAGES[0], ((1, 1), (1, 1), (0, 0)), mode=MODES[kind.partition("1")[0]])
    windows = [padded[row : row + 8, column : column + 10] for row in range(3) for column in range(3)]
    places = [image.tobytes() for window in windows for image in (window, window[:, ::-1])]
    out = [image.tobytes() for image in applied(jax.random.key(2), *copies(count), kind)]
    # 9 offsets, mirrored or not: 200 expected of each, standard deviation 14.
    assert set(out) == set(places) and all(abs(out.count(place) - 200) < 70 for place in places)


def test_rotation_is_the_nearest_pixel_by_an_angle_uniform_in_its_range():
    square = np.random.default_rng(1).integers(1, 256, (1, 16, 16, 3), dtype=np.uint8)
    out = applied(jax.random.key(3), np.repeat(square, 300, axis=0), np.arange(300), "rotate15")
    # Pillow's own rotation, at a fine grid of angles: every outcome is next to one of them.
    grid = np.linspace(-15, 15, 601)
    rotated = [Image.fromarray(square[0]).rotate(a, Image.Resampling.NEAREST) for a in grid]
    references = np.stack([np.asarray(image) for image in rotated])
    differ = (out[:, None] != references).any(-1).mean((2, 3))
    assert np.median(differ.min(1)) == 0 and differ.min(1).max() <= 4 / 256
    angles = grid[differ.argmin(1)]
    assert angles.min() < -14 and angles.max() > 14 and abs(angles.mean()) < 1.6 and 7.7 < angles.std() < 9.7


def _black(out, image):
    """Bounds (top, bottom, left, right) of the black rectangle in an image without black; None without one."""
    black = (out == 0).all(-1)
    assert (out[~black] == image[~black]).all()
    if not black.any():
        return None
    rows, columns = (np.flatnonzero(black.any(axis)) for axis in (1, 0))
    bounds = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert black[bounds[0] : bounds[1], bounds[2] : bounds[3]].all()
    return bounds


def test_cutout_is_a_square_around_any_pixel():
    images, ids = copies(800)
    found = [_black(out, IMAGES[0]) for out in applied(jax.random.key(4), images, ids, "cutout4")]
    # Rows centre - 2 to centre + 1, cut off at the image's edges: one outcome for every one of the 80 centres.
    expected = {
        (max(row - 2, 0), min(row + 2, 8), max(column - 2, 0), min(column + 2, 10))
        for row in range(8)
        for column in range(10)
    }
    assert set(found) == expected and max(map(found.count, expected)) < 30


def test_random_erasing_has_its_share_area_and_ratio():
    square = np.random.default_rng(1).integers(1, 256, (1, 32, 32, 1), dtype=np.uint8)
    images, ids = np.repeat(square, 600, axis=0), np.arange(600)
    found = [_black(out, square[0]) for out in applied(jax.random.key(5), images, ids, "erase75")]
    bounds = np.array([b for b in found if b is not None])
    assert abs(len(bounds) - 450) < 50
    rows, columns = bounds[:, 1] - bounds[:, 0], bounds[:, 3] - bounds[:, 2]
    share, ratio = rows * columns / 1024, np.log(rows / columns)
    # Rounding each side moves the area and the ratio a little past their bounds.
    assert 0.015 < share.min() < 0.03 and 0.3 < share.max() < 0.36 and abs(share.mean() - 0.175) < 0.015
    assert -1.4 < ratio.min() < -1 and 1 < ratio.max() < 1.4 and abs(ratio.mean()) < 0.1
    assert bounds[:, [0, 2]].min() == 0 and bounds[:, [1, 3]].max() == 32


def test_crop_shift_pastes_a_window_at_a_random_place():
    def outcome(k, columns, top, left, to_top, to_left):
        height, width = 8 - (k - columns), 10 - columns
        out = np.zeros_like(IMAGES[0])
        window = IMAGES[0, top : top + height, left : left + width]
        out[to_top : to_top + height, to_left : to_left + width] = window
        return out.tobytes()

    images, ids = copies(2000)
    out = [image.tobytes() for image in applied(jax.random.key(6), images, ids, "crop_shift2")]
    shares = {}
    for k in range(3):
        for columns in range(k + 1):
            places = [
                (a, b, c, d)
                for a in range(k - columns + 1)
                for b in range(columns + 1)
                for c in range(k - columns + 1)
                for d in range(columns + 1)
            ]
            for place in places:
                image = outcome(k, columns, *place)
                shares[image] = shares.get(image, 0) + 1 / 3 / (k + 1) / len(places)
    assert set(out) == set(shares)
    assert all(abs(out.count(image) / 2000 - share) < 0.04 for image, share in shares.items())


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)))
def test_an_example_does_not_depend_on_its_batch(order):
    key, ids = jax.random.key(3), np.array([5, 0, 99, 7, 2**31 - 1, 12], np.int32)
    whole = applied(key, IMAGES, ids, EVERYTHING)
    rows = np.array(order[:4])
    np.testing.assert_array_equal(applied(key, IMAGES[rows], ids[rows], EVERYTHING), whole[rows])


def test_key_and_id_matter():
    same, ids = copies(6)
    by_id = np.asarray(jitted(jax.random.key(0), same, ids, "crop_flip"))
    assert len(np.unique(by_id, axis=0)) > 3
    assert not np.array_equal(by_id, jitted(jax.random.key(1), same, ids, "crop_flip"))


def test_steps_compose_in_their_order_and_none_changes_another():
    key, ids = jax.random.key(7), np.arange(6)
    cropped = applied(key, IMAGES, ids, "crop_flip")
    np.testing.assert_array_equal(
        applied(key, cropped, ids, "rotate15"), applied(key, IMAGES, ids, "crop+flip+rotate15")
    )
    assert not np.array_equal(applied(key, IMAGES, ids, "rotate15+crop"), applied(key, IMAGES, ids, "crop+rotate15"))
    np.testing.assert_array_equal(applied(key, IMAGES, ids, "crop_flip+cutmix"), cropped)
    assert split_cutmix("crop_flip+cutmix50") == ("crop4+flip", 0.5) and split_cutmix("flip") == ("flip", 0.0)
    assert parse_augment("crop+flip+rotate") == parse_augment("crop4+flip+rotate15") != parse_augment("none") == ()


def test_cutmix_swaps_a_rectangle_and_mixes_labels_by_area():
    count = 2000
    ids = np.arange(count)
    labels, others = np.eye(3, dtype=np.float32)[ids % 3], np.eye(3, dtype=np.float32)[(ids + 1) % 3]
    zeros, ones = np.zeros((count, 8, 10, 2), np.float32), np.ones((count, 8, 10, 2), np.float32)
    mix = jax.jit(cutmix)
    image, label = (np.asarray(x) for x in mix(jax.random.key(8), zeros, labels, ids, ones, others))
    share = image.mean((1, 2, 3))
    np.testing.assert_allclose(label, labels * (1 - share[:, None]) + others * share[:, None], atol=1e-6)
    np.testing.assert_array_equal(image[..., 0], image[..., 1])
    for picture in image[:100, :, :, 0].astype(bool):
        assert (picture == picture.any(1)[:, None] & picture.any(0)).all()
    # The rectangle that is asked for has lambda's share, uniform; what falls outside the image makes it less.
    side = np.sqrt(1 - np.random.default_rng(0).random(20_000))
    centre = np.random.default_rng(1).integers(0, [[8], [10]], (2, 20_000))
    height, width = (8 * side).astype(int) // 2, (10 * side).astype(int) // 2
    cut = [
        np.clip(c + s, 0, n) - np.clip(c - s, 0, n) for c, s, n in zip(centre, (height, width), (8, 10), strict=True)
    ]
    assert abs(share.mean() - np.mean(cut[0] * cut[1]) / 80) < 0.015
    half = jax.jit(partial(cutmix, share=0.5))(jax.random.key(8), zeros, labels, ids, ones, others)[0]
    mixed = np.asarray(half).any((1, 2, 3))
    np.testing.assert_array_equal(half[mixed], image[mixed])
    assert abs(mixed.sum() / image.any((1, 2, 3)).sum() - 0.5) < 0.04
    again = mix(jax.random.key(8), zeros[5:7], labels[5:7], ids[5:7], ones[5:7], others[5:7])
    np.testing.assert_array_equal(again[0], image[5:7])


def test_to_float_covers_zero_to_one():
    out = np.asarray(to_float(np.arange(256, dtype=np.uint8)))
    assert out.dtype == np.float32 and out[0] == 0 and out[255] == 1 and (np.diff(out) > 0).all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("crop_flop", r"^augment must be.*crop_flop.*did you mean crop_flip"),
        ("crop+flop", r"'flop'.*did you mean flip"),
        ("crop+", r"^augment must be an augmentation, it is ''"),
        ("flip2", "flip with 2; allowed: no number"),
        ("rotate0", "rotate with 0; allowed: 1 to 180"),
        ("rotate" + "9" * 5000, "allowed: 1 to 180"),
        ("crop+flip+crop2", "has crop twice"),
        ("cutmix101", "cutmix with 101; allowed: 1 to 100"),
        ("cutmix+crop", "has crop after cutmix"),
        ("reflect_crop8", "more than 8 pixels"),
        ("crop_shift8", "more than 8 pixels"),
    ],
)
def test_refuses_in_one_line(kind, message):
    with pytest.raises(InputError, match=message) as error:
        augment(jax.random.key(0), IMAGES, np.arange(6), kind)
    assert str(error.value).startswith("augment ") or "data.augment" in str(error.value)
    assert "\n" not in str(error.value)
