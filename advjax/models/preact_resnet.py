"""Pre-activation ResNets for 32x32 images (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from advjax.errors import unknown
from advjax.models.layers import ImageClassifier, Linear, Train, global_average


class PreActBlock(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, and a shortcut, a 1x1 convolution where the shape changes.

    Attributes:
        width: output channels.
        stride: of the first convolution and the shortcut.
        raw_shortcut: whether the shortcut's convolution starts from the block's input and not from its activation.
        conv: makes the convolutions.
        norm: makes the BatchNorms.
    """

    width: int
    stride: int
    raw_shortcut: bool
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """[B, H, W, I] to [B, H / stride, W / stride, width]."""
        y = nn.relu(self.norm(name="bn1")(x, train))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = self.conv(self.width, 1, self.stride, name="shortcut_0")(x if self.raw_shortcut else y)
        y = self.conv(self.width, 3, self.stride, name="conv1")(y)
        y = self.conv(self.width, name="conv2")(nn.relu(self.norm(name="bn2")(y, train)))
        return x + y


class PreActResNet(ImageClassifier):
    """A pre-activation ResNet of four stages.

    Attributes:
        blocks: blocks per stage.
        width: channels of the stem and the first stage.
        shortcut_from: what a shortcut's convolution starts from, "activated" or "raw" input of the block.
        final_norm: whether BatchNorm and ReLU follow the last block.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    shortcut_from: str = "activated"
    final_norm: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] to logits [B, K]."""
        if self.shortcut_from not in ("activated", "raw"):
            raise unknown("shortcut_from", self.shortcut_from, ("activated", "raw"))
        conv, norm = self.makers()
        x = conv(self.width, name="conv1")(self.prepare(x))
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                options = (self.width * 2**stage, stride, self.shortcut_from == "raw", conv, norm)
                x = PreActBlock(*options, name=f"layer{stage + 1}_{i}")(x, train)
        if self.final_norm:
            x = nn.relu(norm(name="bn")(x, train))
        return Linear(self.num_classes, name="linear")(global_average(x))
