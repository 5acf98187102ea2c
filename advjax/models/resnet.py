"""ResNets (He et al. 2016): four stages of 64 channels and more, and for CIFAR three of 16 and more.

Both have the 3x3 stem of stride 1 that CIFAR code uses unless ImageNet's is asked for, and a global average at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from advjax.errors import unknown
from advjax.models.layers import ImageClassifier, Linear, Train, global_average

STEMS = {"cifar": (3, 1), "imagenet": (7, 2)}  # kernel and stride


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Attributes:
        width: output channels.
        stride: of the first convolution and the shortcut.
        shortcut: where the shape changes, "conv" (1x1 convolution and BatchNorm) or "pad" (option A of the paper).
        conv: makes the convolutions.
        norm: makes the BatchNorms.
    """

    width: int
    stride: int
    shortcut: str
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """[B, H, W, I] to [B, H / stride, W / stride, width]."""
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        y = self.norm(name="bn2")(self.conv(self.width, name="conv2")(y), train)
        return nn.relu(y + _shortcut(self, x, y, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to four times the width. Attributes as `BasicBlock`."""

    width: int
    stride: int
    shortcut: str
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """[B, H, W, I] to [B, H / stride, W / stride, 4 width]."""
        y = nn.relu(self.norm(name="bn1")(self.conv(self.width, 1, name="conv1")(x), train))
        y = nn.relu(self.norm(name="bn2")(self.conv(self.width, 3, self.stride, name="conv2")(y), train))
        y = self.norm(name="bn3")(self.conv(4 * self.width, 1, name="conv3")(y), train)
        return nn.relu(y + _shortcut(self, x, y, train))


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array, train: Train) -> jax.Array:
    if block.stride == 1 and x.shape[-1] == y.shape[-1]:
        return x
    if block.shortcut == "pad":
        missing = y.shape[-1] - x.shape[-1]
        x = x[:, :: block.stride, :: block.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
    x = block.conv(y.shape[-1], 1, block.stride, name="shortcut_0")(x)
    return block.norm(name="shortcut_1")(x, train)


class ResNet(ImageClassifier):
    """A ResNet.

    Attributes:
        blocks: blocks per stage.
        bottleneck: whether the blocks are bottlenecks.
        width: channels of the stem and the first stage, doubled in every further stage.
        strides: of the stages.
        shortcut: where the shape changes, "conv" (1x1 convolution and BatchNorm) or "pad" (option A of the paper:
            every second pixel, the missing channels zero, half of them on either side).
        stem: "cifar" (a 3x3 convolution of stride 1) or "imagenet" (a 7x7 one of stride 2, then 3x3 max-pooling of
            stride 2).
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    strides: tuple[int, ...] = (1, 2, 2, 2)
    shortcut: str = "conv"
    stem: str = "cifar"

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] to logits [B, K]."""
        if self.stem not in STEMS:
            raise unknown("stem", self.stem, STEMS)
        if self.shortcut not in ("conv", "pad"):
            raise unknown("shortcut", self.shortcut, ("conv", "pad"))
        conv, norm = self.makers()
        block = Bottleneck if self.bottleneck else BasicBlock
        kernel, stride = STEMS[self.stem]
        x = conv(self.width, kernel, stride, name="conv1")(self.prepare(x))
        x = nn.relu(norm(name="bn1")(x, train))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, (count, stride) in enumerate(zip(self.blocks, self.strides, strict=True)):
            for i in range(count):
                options = (self.width * 2**stage, stride if i == 0 else 1, self.shortcut, conv, norm)
                x = block(*options, name=f"layer{stage + 1}_{i}")(x, train)
        return Linear(self.num_classes, name="linear")(global_average(x))
