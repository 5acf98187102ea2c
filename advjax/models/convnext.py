"""ConvNeXt (Liu et al. 2022), with its own stem or the convolutional one of Singh et al. (2023).

The second, two 3x3 convolutions of stride 2 in place of one 4x4 of stride 4, is what robust ImageNet training uses.
Stochastic depth is left out.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax

from advjax.errors import InputError, unknown
from advjax.models.layers import Conv, ImageClassifier, Linear, Train, global_average, zero_bias
from advjax.models.vit import LayerNorm, small_normal

STEMS = ("patch", "conv")


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, LayerNorm and a two-layer perceptron, scaled by channel, beside a shortcut.

    Attributes:
        conv: makes the convolutions.
        dtype: of the computation.
    """

    conv: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, D] to the same shape."""
        width = x.shape[-1]
        linear = functools.partial(Linear, dtype=self.dtype, kernel_init=small_normal, bias_init=zero_bias)
        y = self.conv(width, 7, groups=width, name="dwconv")(x)
        y = linear(4 * width, name="pwconv1")(LayerNorm(dtype=self.dtype, name="norm")(y))
        y = linear(width, name="pwconv2")(nn.gelu(y, approximate=False))
        scale = self.param("gamma", nn.initializers.constant(1e-6), (width,))
        return x + scale.astype(self.dtype) * y


class ConvNeXt(ImageClassifier):
    """A ConvNeXt.

    Attributes:
        blocks: blocks per stage.
        width: channels of the first stage, doubled in every further one.
        stem: "patch" (a 4x4 convolution of stride 4) or "conv" (two 3x3 convolutions of stride 2, each with LayerNorm
            and GELU, the first of half the width).
    """

    blocks: tuple[int, ...] = (3, 3, 9, 3)
    width: int = 96
    stem: str = "patch"

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] to logits [B, K]; training and evaluation are the same."""
        del train
        if self.stem not in STEMS:
            raise unknown("stem", self.stem, STEMS)
        least = 4 * 2 ** (len(self.blocks) - 1)
        if x.shape[1] % least or x.shape[2] % least:
            raise InputError(f"a convnext needs images whose sides are multiples of {least}, not {x.shape[1:3]}")
        make, _ = self.makers()
        conv = functools.partial(make, use_bias=True, kernel_init=small_normal, bias_init=zero_bias)
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        x = self._stem(self.prepare(x), conv, norm)
        for stage, count in enumerate(self.blocks):
            if stage:
                x = norm(name=f"downsample_layers_{stage}_0")(x)
                x = conv(self.width * 2**stage, 2, 2, padding=0, name=f"downsample_layers_{stage}_1")(x)
            for i in range(count):
                x = ConvNeXtBlock(conv, self.dtype, name=f"stages_{stage}_{i}")(x)
        x = LayerNorm(name="norm")(global_average(x))
        return Linear(self.num_classes, kernel_init=small_normal, bias_init=zero_bias, name="head")(x)

    def _stem(self, x: jax.Array, conv: functools.partial[Conv], norm: Any) -> jax.Array:
        if self.stem == "patch":
            x = conv(self.width, 4, 4, padding=0, name="downsample_layers_0_0")(x)
            return norm(name="downsample_layers_0_1")(x)
        for i, features in enumerate((self.width // 2, self.width)):
            x = conv(features, 3, 2, name=f"downsample_layers_0_{3 * i}")(x)
            x = nn.gelu(norm(name=f"downsample_layers_0_{3 * i + 1}")(x), approximate=False)
        return x
