"""Wide ResNets for 32x32 images (Zagoruyko & Komodakis 2016), as TRADES and as DeepMind build them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from advjax.errors import InputError, unknown
from advjax.models.layers import ImageClassifier, Linear, Train, global_average, he_fan_out, zero_bias

ACTIVATIONS = {"relu": nn.relu, "swish": nn.swish}


class WideBlock(nn.Module):
    """A pre-activation block.

    Where the number of channels changes (the first block of every stage), shortcut and residual both start from the
    activated input.

    Attributes:
        width: output channels.
        stride: of the first convolution and the shortcut.
        padding: (low, high) of the first convolution.
        activation: of the block.
        conv: makes the convolutions.
        norm: makes the BatchNorms.
    """

    width: int
    stride: int
    padding: tuple[int, int]
    activation: Callable[[jax.Array], jax.Array]
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """[B, H, W, I] to [B, H / stride, W / stride, width]."""
        y = self.activation(self.norm(name="bn1")(x, train))
        if x.shape[-1] != self.width:
            x = self.conv(self.width, 1, self.stride, name="shortcut")(y)
        y = self.conv(self.width, 3, self.stride, padding=self.padding, name="conv1")(y)
        y = self.conv(self.width, name="conv2")(self.activation(self.norm(name="bn2")(y, train)))
        return x + y


class WideResNet(ImageClassifier):
    """A Wide ResNet as in TRADES (Zhang et al. 2019).

    Attributes:
        depth: number of layers, 6 n + 4.
        width: widening factor; the three stages have 16, 32 and 64 times as many channels.
        activation: "relu" or "swish".
        stride_padding: (low, high) padding of the 3x3 convolutions of stride 2.
    """

    depth: int = 34
    width: int = 10
    activation: str = "relu"
    stride_padding: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] to logits [B, K]."""
        if self.depth < 10 or self.depth % 6 != 4:
            raise InputError(f"depth of a Wide ResNet must be 6 n + 4 (10, 16, 22, 28, 34, ...), not {self.depth}")
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)
        activation = ACTIVATIONS[self.activation]
        plain, norm = self.makers()

        def conv(*args, **options):
            return plain(*args, kernel_init=he_fan_out, **options)

        x = conv(16, name="conv1")(self.prepare(x))
        for stage in range(3):
            for i in range((self.depth - 4) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                padding = self.stride_padding if stride == 2 else (1, 1)
                options = (self.width * 16 * 2**stage, stride, padding, activation, conv, norm)
                x = WideBlock(*options, name=f"block{stage + 1}_{i}")(x, train)
        x = activation(norm(name="bn1")(x, train))
        return Linear(self.num_classes, bias_init=zero_bias, name="fc")(global_average(x))


class DeepMindWideResNet(WideResNet):
    """A Wide ResNet as in Gowal et al. (2020) and Rebuffi et al. (2021): Swish, TensorFlow's 'SAME' padding."""

    depth: int = 28
    activation: str = "swish"
    stride_padding: tuple[int, int] = (0, 1)
