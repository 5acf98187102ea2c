"""MobileNetV2 for 32x32 images (Sandler et al. 2018), as public CIFAR code builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from advjax.models.layers import ImageClassifier, Linear, Train, global_average

# expansion, output channels, blocks, stride of the first block; the paper's second stage has stride 2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolutions, with a shortcut where the stride is 1.

    Attributes:
        expansion: factor of the input channels.
        width: output channels.
        stride: of the depthwise convolution.
        conv: makes the convolutions.
        norm: makes the BatchNorms.
    """

    expansion: int
    width: int
    stride: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """[B, H, W, I] to [B, H / stride, W / stride, width]."""
        wide = self.expansion * x.shape[-1]
        y = nn.relu(self.norm(name="bn1")(self.conv(wide, 1, name="conv1")(x), train))
        y = self.conv(wide, 3, self.stride, groups=wide, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        y = self.norm(name="bn3")(self.conv(self.width, 1, name="conv3")(y), train)
        if self.stride != 1:
            return y
        if x.shape[-1] != self.width:
            x = self.norm(name="shortcut_1")(self.conv(self.width, 1, name="shortcut_0")(x), train)
        return x + y


class MobileNetV2(ImageClassifier):
    """MobileNetV2 with ReLU, a stem of stride 1 and a second stage of stride 1.

    Attributes:
        width: factor of all channel numbers.
    """

    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] to logits [B, K]."""
        conv, norm = self.makers()

        def channels(count):
            return max(1, round(count * self.width))

        x = nn.relu(norm(name="bn1")(conv(channels(32), name="conv1")(self.prepare(x)), train))
        index = 0
        for expansion, width, count, stride in STAGES:
            for i in range(count):
                options = (expansion, channels(width), stride if i == 0 else 1, conv, norm)
                x = InvertedResidual(*options, name=f"layers_{index}")(x, train)
                index += 1
        x = nn.relu(norm(name="bn2")(conv(channels(1280), 1, name="conv2")(x), train))
        return Linear(self.num_classes, name="linear")(global_average(x))
