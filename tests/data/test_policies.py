import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from advjax.data import augment
from advjax.data.policies import OPERATIONS, auto_augment, color_shape, operate, rand_augment

RNG = np.random.default_rng(0)
# Noise, a dark picture of few values, a smooth one, and a single colour.
IMAGES = np.stack(
    [
        RNG.integers(0, 256, (16, 12, 3)),
        RNG.integers(40, 49, (16, 12, 3)),
        np.add.outer(np.add.outer(8 * np.arange(16), 5 * np.arange(12)), [0, 20, 60]),
        np.full((16, 12, 3), [7, 200, 91]),
    ]
).astype(np.uint8)
jitted = jax.jit(operate, static_argnames="corner")


def moved(matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


# By Pillow itself; its matrices send a pixel of the result (x, y) to (a x + b y + c, d x + e y + f), from the corner.
PILLOW = {
    "identity": {0: lambda image: image},
    "shear_x": {0.3: moved((1, 0.3, 0, 0, 1, 0)), -0.13: moved((1, -0.13, 0, 0, 1, 0))},
    "shear_y": {0.3: moved((1, 0, 0, 0.3, 1, 0))},
    "translate_x": {3.9: moved((1, 0, 3, 0, 1, 0)), -3.9: moved((1, 0, -3, 0, 1, 0))},
    "translate_y": {2.5: moved((1, 0, 0, 0, 1, 2))},
    "rotate": {17.0: lambda image: image.rotate(17), -8.0: lambda image: image.rotate(-8)},
    "brightness": {m: lambda image, m=m: ImageEnhance.Brightness(image).enhance(m) for m in (0.1, 0.55, 1.0, 1.9)},
    "color": {m: lambda image, m=m: ImageEnhance.Color(image).enhance(m) for m in (0.1, 0.55, 1.0, 1.9)},
    "contrast": {m: lambda image, m=m: ImageEnhance.Contrast(image).enhance(m) for m in (0.1, 0.55, 1.0, 1.9)},
    "sharpness": {m: lambda image, m=m: ImageEnhance.Sharpness(image).enhance(m) for m in (0.1, 0.55, 1.0, 1.9)},
    "posterize": {m: lambda image, m=m: ImageOps.posterize(image, int(m)) for m in (4.0, 7.0, 8.0)},
    "solarize": {m: lambda image, m=m: ImageOps.solarize(image, m) for m in (0.0, 93.5, 255.0)},
    "autocontrast": {0: ImageOps.autocontrast},
    "equalize": {0: ImageOps.equalize},
    "invert": {0: ImageOps.invert},
}


def test_every_operation_is_pillows():
    cases = [(name, m, i) for name in OPERATIONS for m in PILLOW[name] for i in range(len(IMAGES))]
    codes = np.array([OPERATIONS.index(name) for name, _, _ in cases])
    magnitudes = np.array([m for _, m, _ in cases], np.float32)
    images = IMAGES[[i for _, _, i in cases]]
    found = np.asarray(jitted(images, codes, magnitudes, corner=True)).astype(int)
    for (name, m, i), result in zip(cases, found, strict=True):
        expected = np.asarray(PILLOW[name][m](Image.fromarray(IMAGES[i]))).astype(int)
        differ = np.abs(result - expected)
        if name in ("shear_x", "shear_y", "rotate"):
            # Pillow rounds coordinates to 2^-16 pixels, which a few pixels on a border between two feel.
            assert (differ > 0).any(-1).mean() < 0.02, (name, m, i)
        else:
            # Pillow scales in doubles whose product may end just below an integer.
            assert differ.max() <= (name == "autocontrast"), (name, m, i)


def test_grey_images_and_shears_about_the_centre():
    grey = IMAGES[:, :, :, 0]
    names = ("color", "contrast", "equalize")
    pillow = (lambda image: image, lambda image: ImageEnhance.Contrast(image).enhance(1.5), ImageOps.equalize)
    codes = np.repeat([OPERATIONS.index(name) for name in names], 4)
    out = np.asarray(jitted(np.tile(grey, (3, 1, 1))[..., None], codes, np.full(12, 1.5, np.float32)))
    expected = [np.asarray(function(Image.fromarray(image))) for function in pillow for image in grey]
    np.testing.assert_array_equal(out[..., 0], expected)
    sheared = np.asarray(jitted(IMAGES, np.full(4, OPERATIONS.index("shear_x")), np.full(4, 0.5, np.float32)))
    np.testing.assert_array_equal(sheared[:, 7:9], IMAGES[:, 7:9])
    np.testing.assert_array_equal(sheared[:, 5, 1:], IMAGES[:, 5, :-1])
    np.testing.assert_array_equal(sheared[:, 10, :-1], IMAGES[:, 10, 1:])


@pytest.mark.parametrize(("policy", "strength"), [(rand_augment, 9), (auto_augment, 0), (color_shape, 0)])
def test_policies_draw_what_they_say(monkeypatch, policy, strength):
    drawn = []

    def record(images, operation, magnitude, corner=False):
        drawn.append((operation, magnitude))
        return images

    monkeypatch.setattr("advjax.data.policies.operate", record)
    count = 4000
    images = np.zeros((count, 32, 32, 1), np.uint8)
    policy(jax.random.split(jax.random.key(0), count), images, strength)
    calls = [(np.asarray(operation), np.asarray(magnitude)) for operation, magnitude in drawn]
    shares = [np.bincount(operation, minlength=len(OPERATIONS)) / count for operation, _ in calls]
    ranges = {
        name: (magnitude[operation == code].min(), magnitude[operation == code].max())
        for operation, magnitude in calls
        for code, name in enumerate(OPERATIONS)
        if (operation == code).any()
    }
    if policy is rand_augment:
        # Fourteen operations alike: a share of 0.071, standard deviation 0.004.
        assert all((abs(share[:14] - 1 / 14) < 0.02).all() and share[14] == 0 for share in shares) and len(calls) == 2
        assert not np.array_equal(calls[0][0], calls[1][0])
        limits = {"shear_x": 0.09, "translate_y": 150 / 331 * 32 * 0.3, "rotate": 9}
        assert all(np.allclose(ranges[name], (-most, most)) for name, most in limits.items())
        assert np.allclose(ranges["color"], (0.73, 1.27)) and np.allclose(ranges["posterize"], 7)
        assert np.allclose(ranges["solarize"], 255 * 0.7)
    elif policy is auto_augment:
        # Equalize comes first in five of the 25 pairs and second in four, each with a probability of its own.
        code = OPERATIONS.index
        assert abs(shares[0][code("equalize")] - (0.6 + 0.3 + 0.2 + 0.2 + 0.8) / 25) < 0.025
        assert abs(shares[1][code("equalize")] - (0.9 + 0.5 + 0.6 + 0.6) / 25) < 0.025
        # Both operations of a pair are of one pair: Invert comes second after Equalize or Solarize alone.
        assert set(calls[0][0][calls[1][0] == code("invert")]) <= {0, code("equalize")}
        assert np.allclose(ranges["translate_x"], (-150 / 331 * 32, 150 / 331 * 32))
    else:
        (share,) = shares
        names = ("color", "brightness", "contrast", "sharpness", "autocontrast", "equalize", "rotate")
        assert all(abs(share[OPERATIONS.index(name)] - 1 / 8) < 0.03 for name in names)
        assert all(abs(share[OPERATIONS.index(name)] - 1 / 16) < 0.02 for name in ("shear_x", "shear_y"))
        assert ranges["rotate"] == (-10, 10) and np.allclose(ranges["shear_y"], (-0.15, 0.15), atol=0.01)
        assert np.allclose(ranges["brightness"], (0.5, 1.9), atol=0.02)


@pytest.mark.parametrize("kind", ["idbh_strong", "randaugment14+autoaugment"])
def test_policies_are_augmentations(kind):
    ids = np.arange(len(IMAGES))
    whole = jax.jit(augment, static_argnames="kind")
    out = np.asarray(whole(jax.random.key(1), IMAGES, ids, kind))
    assert out.dtype == np.float32 and out.shape == IMAGES.shape and out.min() >= 0 and out.max() <= 1
    again = np.asarray(whole(jax.random.key(1), IMAGES[::-1], ids[::-1], kind))
    np.testing.assert_array_equal(again[::-1], out)
