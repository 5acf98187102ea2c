"""Small convolutional networks for digits and MNIST."""

from __future__ import annotations

import flax.linen as nn
import jax

from advjax.errors import InputError
from advjax.models.layers import (
    ImageClassifier,
    Linear,
    Train,
    he_fan_in,
    max_pool_2x2,
    zero_bias,
)


class TinyCNN(ImageClassifier):
    """For 8x8 digits: three 3x3 convolutions with BatchNorm and ReLU, the second of stride 2, and two linear layers.

    Attributes:
        width: channels of the first convolution; the others have twice as many.
    """

    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] to logits [B, K]."""
        conv, norm = self.makers()
        x = self.prepare(x)
        for i, (features, stride) in enumerate([(self.width, 1), (2 * self.width, 2), (2 * self.width, 1)], start=1):
            x = conv(features, 3, stride, name=f"conv{i}")(x)
            x = nn.relu(norm(name=f"bn{i}")(x, train))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(Linear(4 * self.width, dtype=self.dtype, name="fc1")(x))
        return Linear(self.num_classes, name="fc2")(x)


class SmallCNN(ImageClassifier):
    """The MNIST network of TRADES (Zhang et al. 2019): four 3x3 convolutions without padding, three linear layers.

    Its last layer starts at zero, so its first input gradient is zero. A training forward needs a `dropout` key.

    Attributes:
        width: channels of the first two convolutions; the other two have twice as many.
        dropout: rate after the first linear layer.
    """

    width: int = 32
    dropout: float = 0.5

    @property
    def stochastic(self) -> bool:
        """Whether dropout is on."""
        return self.dropout > 0

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """Images [B, H, W, C] in [0, 1], sides of at least 16 pixels, to logits [B, K]."""
        if min(x.shape[1:3]) < 16:
            raise InputError(
                f"small_cnn needs images of at least 16 x 16 pixels, they have {x.shape[1]} x {x.shape[2]}"
            )
        conv, _ = self.makers()
        x = self.prepare(x)
        for i, features in enumerate([self.width, self.width, 2 * self.width, 2 * self.width], start=1):
            convolution = conv(features, 3, padding=0, use_bias=True, kernel_init=he_fan_in, name=f"conv{i}")
            x = nn.relu(convolution(x))
            if i % 2 == 0:
                x = max_pool_2x2(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(Linear(200, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(Linear(200, dtype=self.dtype, name="fc2")(x))
        return Linear(self.num_classes, kernel_init=nn.initializers.zeros, bias_init=zero_bias, name="fc3")(x)
