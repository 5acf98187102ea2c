"""Operations on colours and shapes, and the policies that draw them: RandAugment, AutoAugment, IDBH's ColorShape.

Each operation is Pillow's, which torchvision applies to Pillow's images; all of them are computed for the whole batch
and leave the images of the others as they are.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize", "invert",
)  # fmt: skip
# Those whose magnitude is turned about by half, and those whose magnitude is a factor's distance from 1.
_SIGNED = OPERATIONS[1:10]
_FACTORS = OPERATIONS[6:10]

# Cubuk et al. 2019, CIFAR-10: (operation, probability, magnitude of 0..9) twice.
_AUTOAUGMENT = (
    ("invert", 0.1, 0, "contrast", 0.2, 6),
    ("rotate", 0.7, 2, "translate_x", 0.3, 9),
    ("sharpness", 0.8, 1, "sharpness", 0.9, 3),
    ("shear_y", 0.5, 8, "translate_y", 0.7, 9),
    ("autocontrast", 0.5, 0, "equalize", 0.9, 0),
    ("shear_y", 0.2, 7, "posterize", 0.3, 7),
    ("color", 0.4, 3, "brightness", 0.6, 7),
    ("sharpness", 0.3, 9, "brightness", 0.7, 9),
    ("equalize", 0.6, 0, "equalize", 0.5, 0),
    ("contrast", 0.6, 7, "sharpness", 0.6, 5),
    ("color", 0.7, 7, "translate_x", 0.5, 8),
    ("equalize", 0.3, 0, "autocontrast", 0.4, 0),
    ("translate_y", 0.4, 3, "sharpness", 0.2, 6),
    ("brightness", 0.9, 6, "color", 0.2, 8),
    ("solarize", 0.5, 2, "invert", 0.0, 0),
    ("equalize", 0.2, 0, "autocontrast", 0.6, 0),
    ("equalize", 0.2, 0, "equalize", 0.6, 0),
    ("color", 0.9, 9, "equalize", 0.6, 0),
    ("autocontrast", 0.8, 0, "solarize", 0.2, 8),
    ("brightness", 0.1, 3, "color", 0.7, 0),
    ("solarize", 0.4, 5, "autocontrast", 0.9, 0),
    ("translate_y", 0.9, 9, "translate_y", 0.7, 9),
    ("autocontrast", 0.9, 0, "solarize", 0.8, 3),
    ("equalize", 0.8, 0, "invert", 0.1, 0),
    ("translate_y", 0.7, 9, "autocontrast", 0.9, 0),
)


def resample(images: jax.Array, matrix: tuple[jax.Array, ...]) -> jax.Array:
    """Each pixel from the one nearest to where a matrix sends it, black outside, as Pillow's affine transformation.

    Args:
        images: [B, H, W, C].
        matrix: a, b, c, d, s, t, each [B]: (x, y) comes from (a x + b y + s, c x + d y + t), x to the right and y
            downwards from the image's centre.
    """
    batch, height, width, channels = images.shape
    a, b, c, d, s, t = (entry[:, None, None] for entry in matrix)
    x = jnp.arange(width) + 0.5 - width / 2
    y = (jnp.arange(height) + 0.5 - height / 2)[:, None]
    column = jnp.floor(a * x + b * y + s + width / 2).astype(int)
    row = jnp.floor(c * x + d * y + t + height / 2).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.where(inside, row * width + column, 0).reshape(batch, -1, 1)
    moved = jnp.take_along_axis(images.reshape(batch, -1, channels), index, 1).reshape(images.shape)
    return jnp.where(inside[..., None], moved, 0)


def operate(images: jax.Array, operation: jax.Array, magnitude: jax.Array, *, corner: bool = False) -> jax.Array:
    """One operation on each image.

    Args:
        images: uint8 [B, H, W, C].
        operation: int [B], places in `OPERATIONS`.
        magnitude: float [B]: slope of a shear, pixels of a translation (cut to an integer), degrees of a rotation,
            factor of brightness, color, contrast and sharpness (1 changes nothing), bits that posterize keeps,
            threshold from which on solarize inverts; nothing for the others.
        corner: shears leave the upper left corner where it is (as torchvision's policies), else the centre.

    Returns:
        uint8 [B, H, W, C].
    """
    _, height, width, channels = images.shape

    def only(name: str, otherwise: float = 0) -> jax.Array:
        return jnp.where(operation == OPERATIONS.index(name), magnitude, otherwise)

    def each(name: str) -> jax.Array:
        return (operation == OPERATIONS.index(name))[:, None, None, None]

    angle = only("rotate") * (math.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    along, down = only("shear_x"), only("shear_y")
    s, t = jnp.trunc(only("translate_x")), jnp.trunc(only("translate_y"))
    if corner:
        s, t = s + along * height / 2, t + down * width / 2
    image = resample(images, (cos, along - sin, down + sin, cos, s, t)).astype(jnp.int32)

    grey = jnp.broadcast_to(_grey(image), image.shape) if channels == 3 else image
    mean = (2 * _grey(image).sum((1, 2, 3), keepdims=True) + height * width) // (2 * height * width)
    start = jnp.where(each("brightness"), 0, image)
    for name, towards in (("color", grey), ("contrast", mean), ("sharpness", _smooth(image))):
        start = jnp.where(each(name), towards, start)
    blended = start + magnitude[:, None, None, None] * (image - start).astype(jnp.float32)
    # Between the images a blend is cut to an integer; equal ones would only be rounded for nothing.
    image = jnp.where(start == image, image, jnp.clip(blended, 0, 255).astype(jnp.int32))

    dropped = (8 - only("posterize", 8)).astype(jnp.int32)[:, None, None, None]
    image = (image >> dropped) << dropped
    threshold = jnp.where(operation == OPERATIONS.index("invert"), 0, only("solarize", 256))[:, None, None, None]
    image = jnp.where(image < threshold, image, 255 - image)
    image = jnp.where(each("autocontrast"), _autocontrast(image), image)
    return jnp.where(each("equalize"), _equalize(image), image).astype(jnp.uint8)


def _grey(image: jax.Array) -> jax.Array:
    """int32 [B, H, W, 1], Pillow's L of RGB (ITU-R 601-2 in 16 bits), the first channel of anything else."""
    if image.shape[-1] != 3:
        return image[..., :1]
    return ((image * jnp.array([19595, 38470, 7471])).sum(-1, keepdims=True) + 0x8000) >> 16


def _smooth(image: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter: 3 x 3 ones with a 5 in the middle, over 13; the outermost pixels stay."""
    height, width = image.shape[1:3]
    if height < 3 or width < 3:
        return image
    total = sum(image[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    inner = (2 * (total + 4 * image[:, 1:-1, 1:-1]) + 13) // 26
    return image.at[:, 1:-1, 1:-1].set(inner)


def _autocontrast(image: jax.Array) -> jax.Array:
    low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
    return jnp.where(high > low, (image - low) * 255 // jnp.maximum(high - low, 1), image)


def _equalize(image: jax.Array) -> jax.Array:
    pixels = image.reshape(len(image), -1, image.shape[-1])
    # The histogram by a product over halves of the bytes: a comparison with all 256 values takes 400 MB for 128 images.
    high, low = jax.nn.one_hot(pixels >> 4, 16), jax.nn.one_hot(pixels & 15, 16)
    counts = jnp.einsum("bpci,bpcj->bijc", high, low).reshape(len(image), 256, -1).astype(jnp.int32)
    brightest = jnp.take_along_axis(counts, pixels.max(1, keepdims=True), 1)
    step = (pixels.shape[1] - brightest) // 255
    table = jnp.minimum((step // 2 + jnp.cumsum(counts, 1) - counts) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, jnp.take_along_axis(table, pixels, 1), pixels).reshape(image.shape)


def _magnitudes(bins: int, width: int, height: int) -> np.ndarray:
    """float32 [operations, bins]: torchvision's magnitudes, from none to the strongest."""
    share = np.linspace(0, 1, bins)
    ramps = {
        **dict.fromkeys(("shear_x", "shear_y"), 0.3 * share),
        "translate_x": 150 / 331 * width * share,
        "translate_y": 150 / 331 * height * share,
        "rotate": 30 * share,
        **dict.fromkeys(_FACTORS, 0.9 * share),
        "posterize": 8 - np.round(4 * share),
        "solarize": 255 * (1 - share),
    }
    return np.stack([ramps.get(name, 0 * share) for name in OPERATIONS]).astype(np.float32)


def _members(names: tuple[str, ...]) -> jax.Array:
    return jnp.array([name in names for name in OPERATIONS])


def _signed(key: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    """The operation's own unit of a magnitude: its sign by chance where it has one, a factor from 1."""
    flipped = jax.random.bernoulli(key) & _members(_SIGNED)[operation]
    magnitude = jnp.where(flipped, -magnitude, magnitude)
    return jnp.where(_members(_FACTORS)[operation], 1 + magnitude, magnitude)


def rand_augment(keys: jax.Array, images: jax.Array, strength: int) -> jax.Array:
    """Two of the first fourteen operations on each image, drawn alike, at one magnitude of 0..30."""
    _, height, width, _ = images.shape
    magnitudes = jnp.asarray(_magnitudes(31, width, height)[:, strength])

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        which, sign = jax.random.split(key)
        operation = jax.random.randint(which, (), 0, OPERATIONS.index("invert"))
        return operation, _signed(sign, operation, magnitudes[operation])

    for keys_of_one in jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0):
        images = operate(images, *jax.vmap(draw)(keys_of_one), corner=True)
    return images


def auto_augment(keys: jax.Array, images: jax.Array, _: int) -> jax.Array:
    """One of the 25 pairs of operations that were found for CIFAR-10 on each image."""
    _, height, width, _ = images.shape
    magnitudes = _magnitudes(10, width, height)
    pairs = [(policy[:3], policy[3:]) for policy in _AUTOAUGMENT]
    codes = jnp.array([[OPERATIONS.index(name) for name, _, _ in pair] for pair in pairs])
    shares = jnp.array([[share for _, share, _ in pair] for pair in pairs])
    values = jnp.array([[magnitudes[OPERATIONS.index(name), bin] for name, _, bin in pair] for pair in pairs])

    def draw(key: jax.Array, place: int) -> tuple[jax.Array, jax.Array]:
        which, *own = jax.random.split(key, 3)
        happens, sign = jax.random.split(own[place])
        policy = jax.random.randint(which, (), 0, len(pairs))
        code = codes[policy, place]
        done = jax.random.bernoulli(happens, shares[policy, place])
        return jnp.where(done, code, 0), _signed(sign, code, values[policy, place])

    for place in range(2):
        images = operate(images, *jax.vmap(lambda key, p=place: draw(key, p))(keys), corner=True)
    return images


def color_shape(keys: jax.Array, images: jax.Array, _: int) -> jax.Array:
    """One of eight operations on each image, as IDBH for CIFAR has them."""
    ranges = {
        "color": (0.1, 1.9), "brightness": (0.5, 1.9), "contrast": (0.5, 1.9), "sharpness": (0.1, 1.9),
        "autocontrast": (0, 0), "equalize": (0, 0), "shear_x": (0.05, 0.15), "rotate": (1, 11),
    }  # fmt: skip
    codes = jnp.array([OPERATIONS.index(name) for name in ranges])
    low, high = jnp.array(list(ranges.values()), jnp.float32).T
    rotate, along, down = (OPERATIONS.index(name) for name in ("rotate", "shear_x", "shear_y"))

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        which, much, sign, axis = jax.random.split(key, 4)
        place = jax.random.randint(which, (), 0, len(ranges))
        magnitude = jax.random.uniform(much, (), minval=low[place], maxval=high[place])
        operation = codes[place]
        # Whole degrees from 1 to 10.
        magnitude = jnp.where(operation == rotate, jnp.floor(magnitude), magnitude)
        turned = (operation == rotate) | (operation == along)
        magnitude = jnp.where(turned & jax.random.bernoulli(sign), -magnitude, magnitude)
        return jnp.where((operation == along) & jax.random.bernoulli(axis), down, operation), magnitude

    return operate(images, *jax.vmap(draw)(keys))
