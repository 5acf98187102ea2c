"""Augmentation on the device: uint8 in, float32 in [0, 1] out, each example by its own key."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from advjax.data import policies
from advjax.errors import InputError, unknown

AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


class _Step(NamedTuple):
    """One kind of augmentation.

    Attributes:
        apply: (keys [B], uint8 images [B, H, W, C], strength) -> uint8 images of the same shape.
        stream: which of an example's random streams it draws from, so that no step's draws depend on the others.
        default: the strength where the name carries none, None if it takes none.
        most: the largest strength; the smallest is 1.
    """

    apply: Callable[[jax.Array, jax.Array, int], jax.Array]
    stream: int
    default: int | None = None
    most: int = 0


def to_float(images: AnyArray) -> AnyArray:
    """uint8 images of any shape as float32 in [0, 1]: value / 255."""
    return images.astype(jnp.float32) / 255


def augment(key: jax.Array, images: jax.Array, ids: jax.Array, kind: str) -> jax.Array:
    """Random changes drawn for each example from `fold_in(key, id)`, then scaling to [0, 1].

    What happens to an example depends on (key, its id) alone, not on its batch, its place in it or its device. The
    steps joined by `+` happen in the order they are written in; a number at the end of a step is its strength:

    - `flip`: mirrored left to right with probability 1/2.
    - `crop4`: zeros (black) for 4 pixels on each side, and a window of the original size at one of the (2 * 4 + 1)^2
      offsets, all equally likely, as torchvision's `RandomCrop(padding=4)`.
    - `reflect_crop4`: the same with the mirrored image around it.
    - `crop_shift10`: a window smaller by k = a + b pixels, k uniform in 0..10, a of them from the width, at a random
      place of the image, pasted at a random place of a black one: IDBH's (Li and Spratling 2023) CropShift(0, 11).
    - `rotate15`: by an angle uniform in [-15, 15] degrees about the centre, nearest pixel, black outside: torchvision's
      `RandomRotation(15)`.
    - `cutout16`: a black square of 16 x 16 pixels around a pixel of the image, its part outside cut off (DeVries and
      Taylor 2017; they blacken after normalising, so to the mean).
    - `erase50`: with a probability of 50 % a black rectangle of 2 to 33 % of the area and an aspect ratio of 0.3 to
      3.3, as torchvision's `RandomErasing`.
    - `randaugment9`: two operations on colours or shape, of magnitude 9 of 30: torchvision's `RandAugment(2, 9)`.
    - `autoaugment`: the operations that AutoAugment found for CIFAR-10, as in torchvision.
    - `color_shape`: one operation on colours or a small rotation or shear: IDBH's ColorShape("color").

    `cutmix50` at the end, which mixes 50 % of the images with another one and their labels (`cutmix`), is left to the
    caller, who has the labels: here nothing comes of it.

    Args:
        key: a key that the caller has folded the epoch or step into.
        images: uint8 [B, H, W, C].
        ids: int32 [B], the examples' indices.
        kind: `none` or steps joined by `+`, each at most once; without its number a step has the one above. `crop_flip`
            and `reflect_crop_flip` are `crop+flip` and `reflect_crop+flip`, `idbh_weak` and `idbh_strong` IDBH's
            `flip+crop_shift10+color_shape` with `erase50` and `erase100`. Static under `jit`.

    Returns:
        float32 [B, H, W, C] in [0, 1].

    Raises:
        InputError: unknown kind, or images too small for it.
    """
    steps = parse_augment(split_cutmix(kind)[0])
    if steps:
        keys = jax.vmap(partial(jax.random.fold_in, key))(ids)
        # Two streams from a split and the others by folding in numbers above: nobody's crops change with new steps.
        pairs = jax.vmap(jax.random.split)(keys)
        for name, strength in steps:
            step = _STEPS[name]
            fold = jax.vmap(lambda k, n=step.stream: jax.random.fold_in(k, n))
            images = step.apply(pairs[:, step.stream] if step.stream < 2 else fold(keys), images, strength)
    return to_float(images)


def parse_augment(kind: str) -> tuple[tuple[str, int], ...]:
    """The steps of a kind of augmentation, each with its strength (0 for a step that takes none).

    Raises:
        InputError: an unknown step, a strength out of its range, a step twice, or CutMix before another step.
    """
    steps: list[tuple[str, int]] = []
    texts = [step for text in kind.split("+") for step in _SHORT.get(text, text).split("+")]
    for text in [] if kind == "none" else texts:
        name = text.rstrip("0123456789")
        digits = text[len(name) :]
        if name not in _STRENGTHS:
            raise unknown("augmentation", text, KINDS, "augment")
        default, most = _STRENGTHS[name]
        if digits and (len(digits) > 9 or not 1 <= int(digits) <= most):
            allowed = f"1 to {most}" if most else "no number"
            raise InputError(f"has {name} with {digits}; allowed: {allowed}", "augment")
        if any(name == earlier for earlier, _ in steps):
            raise InputError(f"has {name} twice in {kind!r}; allowed: each step once", "augment")
        if steps and steps[-1][0] == "cutmix":
            raise InputError(f"has {name} after cutmix in {kind!r}; allowed: cutmix at the end", "augment")
        steps.append((name, int(digits or default or 0)))
    return tuple(steps)


def split_cutmix(kind: str) -> tuple[str, float]:
    """What of a kind of augmentation changes single images, as a kind, and the share of images that CutMix mixes.

    Raises:
        InputError: as `parse_augment`.
    """
    steps = parse_augment(kind)
    alone = "+".join(f"{name}{strength or ''}" for name, strength in steps if name != "cutmix")
    return alone or "none", dict(steps).get("cutmix", 0) / 100


def cutmix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    partner_images: jax.Array,
    partner_labels: jax.Array,
    *,
    alpha: float = 1.0,
    share: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """CutMix (Yun et al. 2019): a rectangle of each image comes from its partner, the labels by the areas' shares.

    Lambda ~ Beta(alpha, alpha); the rectangle has sqrt(1 - lambda) of the height and width (rounded down), its centre
    is any pixel, and its part outside the image is cut off. Drawn for each example from (key, id), where the authors
    draw one rectangle per batch. For a partner from the same global batch, whatever the devices, take rows of the set
    by a permutation of the global batch's, and augment them with the same key as everything.

    Args:
        key: a key that the caller has folded the epoch or step into.
        images: [B, H, W, C], augmented.
        labels: float [B, K], rows that sum to 1.
        ids: int32 [B], the examples' indices.
        partner_images: [B, H, W, C].
        partner_labels: float [B, K].
        alpha: above 0; 1 is uniform. Static under `jit`.
        share: probability that an image is mixed at all.

    Returns:
        images [B, H, W, C] and labels [B, K].
    """
    _, height, width, _ = images.shape

    def draw(id: jax.Array) -> tuple[jax.Array, ...]:
        own = jax.random.fold_in(key, id)
        share_key, row_key, column_key = jax.random.split(own, 3)
        mixed = jax.random.bernoulli(jax.random.fold_in(own, 7), share)
        # Beta(1, 1) without the sampler of others, which takes longer to compile than a small network.
        kept = jax.random.uniform(share_key) if alpha == 1 else jax.random.beta(share_key, alpha, alpha)
        side = jnp.sqrt(1 - kept) * mixed
        row, column = jax.random.randint(row_key, (), 0, height), jax.random.randint(column_key, (), 0, width)
        return row, column, (height * side).astype(int), (width * side).astype(int)

    row, column, rows, columns = jax.vmap(draw)(ids)
    mask = _rectangle(images, row - rows // 2, row + rows // 2, column - columns // 2, column + columns // 2)
    area = mask.mean((1, 2, 3))[:, None]
    return jnp.where(mask, partner_images, images), labels * (1 - area) + partner_labels * area


def _window(images: jax.Array, start: jax.Array, size: int, axis: int) -> jax.Array:
    """`size` pixels along an axis from each image's own start on."""

    def by_slices(images: jax.Array, start: jax.Array) -> jax.Array:
        return jax.vmap(lambda image, first: jax.lax.dynamic_slice_in_dim(image, first, size, axis - 1))(images, start)

    def by_selection(images: jax.Array, start: jax.Array) -> jax.Array:
        start = start[:, None, None, None]
        cut = [jax.lax.slice_in_dim(images, o, o + size, axis=axis) for o in range(images.shape[axis] - size + 1)]
        return reduce(lambda out, offset: jnp.where(start == offset, cut[offset], out), range(1, len(cut)), cut[0])

    # A slice per image is a serial loop over the batch on accelerators; on CPU it is a copy, and selections are not.
    return jax.lax.platform_dependent(images, start, cpu=by_slices, default=by_selection)


def _rectangle(images: jax.Array, top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """bool [B, H, W, 1]: top <= row < bottom and left <= column < right, each image by its own bounds."""
    _, height, width, _ = images.shape
    top, bottom, left, right = (bound[:, None, None, None] for bound in (top, bottom, left, right))
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    return (top <= row) & (row < bottom) & (left <= column) & (column < right)


def _crop(mode: str, keys: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    _, height, width, _ = images.shape
    if mode == "reflect" and pad >= min(height, width):
        raise InputError(f"data.augment: reflect_crop{pad} needs images of more than {pad} pixels a side")
    row, column = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 2 * pad + 1))(keys).T
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
    return _window(_window(padded, row, height, 1), column, width, 2)


def _flip(keys: jax.Array, images: jax.Array, _: int) -> jax.Array:
    return jnp.where(jax.vmap(jax.random.bernoulli)(keys)[:, None, None, None], images[:, :, ::-1], images)


def _rotate(keys: jax.Array, images: jax.Array, degrees: int) -> jax.Array:
    angle = jax.vmap(lambda k: jax.random.uniform(k, (), minval=-degrees, maxval=degrees))(keys) * (math.pi / 180)
    cos, sin, none = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
    return policies.resample(images, (cos, -sin, sin, cos, none, none))


def _cutout(keys: jax.Array, images: jax.Array, size: int) -> jax.Array:
    _, height, width, _ = images.shape
    row, column = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, jnp.array([height, width])))(keys).T
    top, left = row - size // 2, column - size // 2
    return jnp.where(_rectangle(images, top, top + size, left, left + size), 0, images)


def _crop_shift(keys: jax.Array, images: jax.Array, most: int) -> jax.Array:
    _, height, width, _ = images.shape
    if most >= min(height, width):
        raise InputError(f"data.augment: crop_shift{most} needs images of more than {most} pixels a side")

    def draw(key: jax.Array) -> jax.Array:
        strength_key, share_key, place_key = jax.random.split(key, 3)
        strength = jax.random.randint(strength_key, (), 0, most + 1)
        columns = jax.random.randint(share_key, (), 0, strength + 1)
        cut = jnp.stack([strength - columns, columns])
        return jnp.stack([cut, *jax.random.randint(place_key, (2, 2), 0, cut + 1)])

    cut, source, target = jnp.moveaxis(jax.vmap(draw)(keys), (0, 1, 2), (2, 0, 1))
    end = source + jnp.array([[height], [width]]) - cut
    masked = jnp.where(_rectangle(images, source[0], end[0], source[1], end[1]), images, 0)
    padded = jnp.pad(masked, ((0, 0), (most, most), (most, most), (0, 0)))
    start = most + source - target
    return _window(_window(padded, start[0], height, 1), start[1], width, 2)


def _erase(keys: jax.Array, images: jax.Array, percent: int) -> jax.Array:
    _, height, width, _ = images.shape

    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        whether_key, area_key, ratio_key, place_key = jax.random.split(key, 4)
        # Ten attempts at a rectangle that is smaller than the image, and none if they all fail, as torchvision.
        area = height * width * jax.random.uniform(area_key, (10,), minval=0.02, maxval=0.33)
        ratio = jnp.exp(jax.random.uniform(ratio_key, (10,), minval=math.log(0.3), maxval=math.log(3.3)))
        rows, columns = (jnp.round(jnp.sqrt(x)).astype(int) for x in (area * ratio, area / ratio))
        fits = (rows < height) & (columns < width)
        first = jnp.argmax(fits)
        size = jnp.stack([rows, columns], 1)[first]
        top, left = jax.random.randint(place_key, (2,), 0, jnp.maximum(jnp.array([height, width]) - size + 1, 1))
        erased = fits[first] & jax.random.bernoulli(whether_key, percent / 100)
        return top, jnp.where(erased, top + size[0], top), left, left + size[1]

    return jnp.where(_rectangle(images, *jax.vmap(draw)(keys)), 0, images)


_STEPS = {
    "crop": _Step(partial(_crop, "constant"), 0, 4, 64),
    "reflect_crop": _Step(partial(_crop, "reflect"), 0, 4, 64),
    "flip": _Step(_flip, 1),
    "rotate": _Step(_rotate, 2, 15, 180),
    "cutout": _Step(_cutout, 3, 16, 4096),
    "crop_shift": _Step(_crop_shift, 4, 10, 64),
    "erase": _Step(_erase, 5, 50, 100),
    "color_shape": _Step(policies.color_shape, 6),
    "randaugment": _Step(policies.rand_augment, 7, 9, 30),
    "autoaugment": _Step(policies.auto_augment, 8),
}
_SHORT = {
    "crop_flip": "crop+flip",
    "reflect_crop_flip": "reflect_crop+flip",
    "idbh_weak": "flip+crop_shift10+color_shape+erase50",
    "idbh_strong": "flip+crop_shift10+color_shape+erase100",
}
# Name -> the strength where the name carries none, and the largest one. CutMix is no step of single images.
_STRENGTHS = {**{name: (step.default, step.most) for name, step in _STEPS.items()}, "cutmix": (100, 100)}
KINDS = ("none", *_STRENGTHS, *_SHORT)
