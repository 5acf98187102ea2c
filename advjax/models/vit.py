"""A small vision transformer (Dosovitskiy et al. 2021) for 32x32 images; it has no BatchNorm."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advjax.errors import InputError
from advjax.models.layers import ImageClassifier, Linear, Train, zero_bias

small_normal = nn.initializers.truncated_normal(0.02)
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


@jax.custom_jvp
def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    # Accumulated and kept in float32, whatever is multiplied.
    kept = jnp.promote_types(query.dtype, jnp.float32)
    return jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=kept)


@_scores.defjvp
def _scores_jvp(primals, tangents):
    # Of the same products without the float32 result, since the gradient's own would be products of float32 otherwise.
    (query, key), (d_query, d_key) = primals, tangents
    tangent = jnp.einsum("bqhd,bkhd->bhqk", d_query, key) + jnp.einsum("bqhd,bkhd->bhqk", query, d_key)
    scores = _scores(query, key)
    return scores, tangent.astype(scores.dtype)


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017), [B, T, H, D] each, to the same shape and type.

    As `jax.nn.dot_product_attention` computes it, scores and their softmax in float32; but in bfloat16 the gradient's
    products, too, are of bfloat16.
    """
    share = jax.nn.softmax(_scores(query, key) * query.shape[-1] ** -0.5)
    return jnp.einsum("bhqk,bkhd->bqhd", share.astype(value.dtype), value)


class EncoderBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each after LayerNorm and beside a shortcut.

    Attributes:
        heads: of the attention.
        dtype: of the computation.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to the same shape."""
        batch, tokens, width = x.shape
        linear = functools.partial(Linear, dtype=self.dtype, kernel_init=small_normal, bias_init=zero_bias)
        y = linear(3 * width, name="qkv")(LayerNorm(dtype=self.dtype, name="norm1")(x))
        # Cut into three before it is cut into heads: five dimensions are laid out anew in a TPU's memory, four are not.
        query, key, value = (part.reshape(batch, tokens, self.heads, -1) for part in jnp.split(y, 3, -1))
        y = attention(query, key, value).reshape(batch, tokens, width)
        x = x + linear(width, name="proj")(y)
        y = linear(4 * width, name="fc1")(LayerNorm(dtype=self.dtype, name="norm2")(x))
        return x + linear(width, name="fc2")(nn.gelu(y, approximate=False))


class VisionTransformer(ImageClassifier):
    """A vision transformer with a class token and learned positions.

    Attributes:
        width: D, the tokens' dimension.
        depth: number of blocks.
        heads: of the attention, dividing `width`.
        patch: side of a patch in pixels, dividing the image's.
    """

    width: int = 192
    depth: int = 6
    heads: int = 3
    patch: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] to logits [B, K]; training and evaluation are the same."""
        del train
        if self.width % self.heads:
            raise InputError(f"width {self.width} of a vit must be a multiple of heads {self.heads}")
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise InputError(f"patch {self.patch} of a vit must divide the image's sides {x.shape[1:3]}")
        conv, _ = self.makers()
        embed = conv(self.width, self.patch, self.patch, padding=0, use_bias=True, name="patch_embed")
        x = embed(self.prepare(x)).reshape(x.shape[0], -1, self.width)
        token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)).astype(x.dtype), x], 1)
        positions = self.param("pos_embed", small_normal, (1, x.shape[1], self.width))
        x = x + positions.astype(x.dtype)
        for i in range(self.depth):
            x = EncoderBlock(self.heads, self.dtype, name=f"blocks_{i}")(x)
        x = LayerNorm(name="norm")(x[:, 0])
        return Linear(self.num_classes, kernel_init=small_normal, bias_init=zero_bias, name="head")(x)
