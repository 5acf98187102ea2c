import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax.data import KINDS, augment, to_float
from advjax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
MODES = {"crop": "constant", "crop_flip": "constant", "reflect_crop_flip": "reflect"}
jitted = jax.jit(augment, static_argnames=("kind", "pad"))


def _candidates(image, kind, pad):
    """All images that an augmentation may give, each under its (row, column, mirrored)."""
    flips = (False, True) if "flip" in kind else (False,)
    reach = range(2 * pad + 1) if kind in MODES else range(1)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=MODES[kind]) if kind in MODES else image
    height, width, _ = image.shape
    for row in reach:
        for column in reach:
            window = padded[row : row + height, column : column + width]
            for flip in flips:
                yield (row, column, flip), (window[:, ::-1] if flip else window)


def _matches(image, result, kind, pad):
    return [place for place, candidate in _candidates(image, kind, pad) if np.array_equal(candidate, result)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [augment, jitted], ids=["eager", "jit"])
def test_every_outcome_is_a_window_of_the_padded_image(kind, function):
    ids = np.arange(6) + 100
    out = np.asarray(function(jax.random.key(1), IMAGES, ids, kind))
    assert out.dtype == np.float32 and out.shape == IMAGES.shape
    for image, result in zip(IMAGES, np.round(out * 255).astype(np.uint8), strict=True):
        assert len(_matches(image, result, kind, 4)) == 1


@pytest.mark.parametrize("kind", ["crop_flip", "reflect_crop_flip"])
def test_offsets_and_mirroring_are_uniform(kind):
    count, pad = 3600, 1
    images = np.broadcast_to(IMAGES[:1], (count, *IMAGES.shape[1:]))
    out = np.round(np.asarray(jitted(jax.random.key(2), images, np.arange(count), kind, pad=pad)) * 255)
    places = [_matches(IMAGES[0], result, kind, pad) for result in out.astype(np.uint8)]
    assert all(len(place) == 1 for place in places)
    _, counts = np.unique([place[0] for place in places], axis=0, return_counts=True)
    # 9 offsets, mirrored or not: 200 expected of each, standard deviation 14.
    assert len(counts) == 18 and (np.abs(counts - 200) < 70).all()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.sampled_from([1, 4]), st.sampled_from(["crop_flip", "reflect_crop_flip"]))
def test_an_example_does_not_depend_on_its_batch(order, size, kind):
    key, ids = jax.random.key(3), np.array([5, 0, 99, 7, 2**31 - 1, 12], np.int32)
    whole = np.asarray(jitted(key, IMAGES, ids, kind))
    rows = np.array(order[:size])
    np.testing.assert_array_equal(np.asarray(jitted(key, IMAGES[rows], ids[rows], kind)), whole[rows])


def test_key_and_id_matter():
    same = np.repeat(IMAGES[:1], 6, axis=0)
    by_id = np.asarray(jitted(jax.random.key(0), same, np.arange(6), "crop_flip"))
    assert len(np.unique(by_id, axis=0)) > 3
    assert not np.array_equal(by_id, jitted(jax.random.key(1), same, np.arange(6), "crop_flip"))


def test_none_only_scales():
    out = augment(jax.random.key(0), IMAGES, np.arange(6), "none")
    np.testing.assert_array_equal(np.asarray(out), IMAGES.astype(np.float32) / 255)


def test_to_float_covers_zero_to_one():
    out = np.asarray(to_float(np.arange(256, dtype=np.uint8)))
    assert out.dtype == np.float32 and out[0] == 0 and out[255] == 1 and (np.diff(out) > 0).all()


def test_unknown_kind():
    with pytest.raises(InputError, match=r"data\.augment.*crop_flop.*did you mean crop_flip"):
        augment(jax.random.key(0), IMAGES, np.arange(6), "crop_flop")
