"""Augmentation on the device: uint8 in, float32 in [0, 1] out, each example by its own key."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from advjax.errors import unknown

# kind -> (padding mode of the random crop or None, whether half of the images are mirrored)
_KINDS: dict[str, tuple[str | None, bool]] = {
    "none": (None, False),
    "flip": (None, True),
    "crop": ("constant", False),
    "crop_flip": ("constant", True),
    "reflect_crop_flip": ("reflect", True),
}
KINDS = tuple(_KINDS)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images of any shape as float32 in [0, 1]: value / 255."""
    return images.astype(jnp.float32) / 255


def augment(key: jax.Array, images: jax.Array, ids: jax.Array, kind: str, *, pad: int = 4) -> jax.Array:
    """Random crop and mirroring, drawn for each example from `fold_in(key, id)`, then scaling to [0, 1].

    What happens to an example depends on (key, its id) alone, not on its batch, its place in it or its device. A crop
    pads by `pad` pixels on each side and cuts a window of the original size at one of (2 pad + 1)^2 offsets, all
    equally likely: zeros (black) around it as in torchvision's `RandomCrop(padding=4)`, the usual choice for
    CIFAR-10, or the mirrored image for `reflect_crop_flip`. Mirroring is left to right with probability 1/2.

    Args:
        key: a key that the caller has folded the epoch or step into.
        images: uint8 [B, H, W, C].
        ids: int32 [B], the examples' indices.
        kind: `none`, `flip`, `crop`, `crop_flip` or `reflect_crop_flip`. Static under `jit`.
        pad: pixels added on each side before a crop, for `reflect_crop_flip` below H and W. Static under `jit`.

    Returns:
        float32 [B, H, W, C] in [0, 1].

    Raises:
        InputError: unknown kind.
    """
    if kind not in _KINDS:
        raise unknown("augmentation (data.augment)", kind, KINDS)
    mode, mirror = _KINDS[kind]

    def one(image: jax.Array, id: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, id))
        if mode is not None:
            image = _crop(crop_key, image, lambda x: jnp.pad(x, ((pad, pad), (pad, pad), (0, 0)), mode=mode), pad)
        if mirror:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return to_float(jax.vmap(one)(images, ids))


def _crop(key: jax.Array, image: jax.Array, widen: Callable[[jax.Array], jax.Array], pad: int) -> jax.Array:
    row, column = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(widen(image), (row, column, 0), image.shape)
