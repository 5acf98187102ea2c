"""Small convolutional networks for digits and MNIST."""

from __future__ import annotations

import flax.linen as nn
import jax

from advjax.models.layers import Linear, Network, Train


class TinyCNN(Network):
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
