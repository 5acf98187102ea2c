"""The layers that every network is built of, with PyTorch's conventions where recipes depend on them.

Public PyTorch recipes fix the initialisation, the padding of strided convolutions and the estimator of BatchNorm's
running variance; flax's own layers differ in all three, so the few layers needed are written here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from advjax import compiling
from advjax.errors import InputError
from advjax.models.convolution import Pair, convolution, cured_convolution

Initializer = Callable[..., jax.Array]


class TrainMode(NamedTuple):
    """A training forward: BatchNorm on the batch's own statistics.

    Attributes:
        weight: [B] of 0 or 1, one per example of this device's share; padding rows (0) count nothing. None: all count.
        axis_name: the devices axis that the batch is spread over, statistics being those of the whole batch; None for
            statistics of this device's share alone.
        momentum: weight of the old running statistics, possibly traced; None: `BatchNorm.momentum`.
    """

    weight: jax.Array | None = None
    axis_name: str | None = None
    momentum: jax.typing.ArrayLike | None = None

    def weights(self, x: jax.Array) -> jax.Array:
        """The weight of every example of x [B, ...], [B] float32."""
        return jnp.ones(len(x)) if self.weight is None else self.weight.astype(jnp.float32)


Train = bool | TrainMode


# Initialisation as in PyTorch: nn.Conv2d and nn.Linear draw from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), kernel and bias
# alike (kaiming_uniform with a = sqrt(5) comes to the same); Wide ResNets use He's normal scaled by the fan-out.
torch_uniform = jax.nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
he_fan_in = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default bias initialiser, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def zero_bias(fan_in: int) -> Initializer:
    """A bias that starts at zero."""
    del fan_in
    return jax.nn.initializers.zeros


class Conv(nn.Module):
    """A 2-D convolution, NHWC, with PyTorch's default initialisation.

    On CPU it is the `cured_convolution`; elsewhere, or with `forward_mode`, XLA's own.

    Attributes:
        features: output channels.
        kernel: side of the square kernel.
        stride: in both directions.
        padding: pixels of zeros on every side, or one (low, high) pair for rows and columns alike; None: (kernel-1)//2.
        groups: channel groups.
        use_bias: whether a bias is added.
        dtype: of the computation; parameters are float32.
        kernel_init: initialiser of the kernel.
        bias_init: initialiser of the bias, given the fan-in.
        forward_mode: keep forward-mode derivatives (`jax.jvp`, `jax.linearize`) possible.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: int | Pair | None = None
    groups: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_uniform
    bias_init: Callable[[int], Initializer] = torch_bias
    forward_mode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, I] to [B, H', W', features]."""
        inputs = x.shape[-1] // self.groups
        kernel = self.param("kernel", self.kernel_init, (self.kernel, self.kernel, inputs, self.features))
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init(self.kernel**2 * inputs), (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = (self.kernel - 1) // 2 if self.padding is None else self.padding
        low, high = (padding, padding) if isinstance(padding, int) else padding
        cured = compiling.platform() == "cpu" and not self.forward_mode
        convolve = cured_convolution if cured else convolution
        y = convolve(x, kernel, (self.stride, self.stride), ((low, high), (low, high)), self.groups)
        return y if bias is None else y + bias


class Linear(nn.Module):
    """A dense layer with PyTorch's default initialisation, [..., I] to [..., features].

    Attributes:
        features: outputs.
        dtype: of the computation; parameters are float32.
        kernel_init: initialiser of the kernel [I, features].
        bias_init: initialiser of the bias, given the fan-in.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_uniform
    bias_init: Callable[[int], Initializer] = torch_bias

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., I] to [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init(x.shape[-1]), (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) as PyTorch computes it, over the whole batch on all devices.

    Training normalises with the batch's mean and biased variance and moves the running ones, `running = 0.9 running +
    0.1 batch`, with the unbiased variance (n / (n - 1)); they move only where `batch_stats` is mutable. Evaluation uses
    the running ones. All arithmetic on statistics is float32.

    Attributes:
        dtype: of the output.
        epsilon: added to the variance.
        momentum: weight of the old running statistics.
        forward_mode: keep forward-mode derivatives (`jax.jvp`, `jax.linearize`) possible in training.
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-5
    momentum: float = 0.9
    forward_mode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """[B, ..., C] to the same shape."""
        shape = x.shape[-1:]
        scale = self.param("scale", jax.nn.initializers.ones, shape)
        bias = self.param("bias", jax.nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if train:
            mode = train if isinstance(train, TrainMode) else TrainMode()
            normalise = normalise_batch.fun if self.forward_mode else normalise_batch
            y, mean, var, count = normalise(x, scale, bias, mode.weights(x), mode.axis_name, self.epsilon)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
                old: Any = self.momentum if mode.momentum is None else mode.momentum
                running_mean.value = old * running_mean.value + (1.0 - old) * mean
                running_var.value = old * running_var.value + (1.0 - old) * unbiased
        else:
            inverse = lax.rsqrt(running_var.value + self.epsilon)
            y = (x.astype(jnp.float32) - running_mean.value) * (inverse * scale) + bias
        return y.astype(self.dtype)


def _sums(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Sums of x [B, ..., C] over all but the channels, examples weighted [B]; -> [C]."""
    if compiling.platform() == "cpu":
        # A product with the weights first: XLA:CPU's own reduction takes three times as long.
        return jnp.sum(jnp.tensordot(weight, x, 1), tuple(range(x.ndim - 2)))
    return jnp.sum(x * weight.reshape((-1,) + (1,) * (x.ndim - 1)), tuple(range(x.ndim - 1)))


def _total(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else lax.psum(tree, axis_name)


def batch_statistics(
    x: jax.Array, weight: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and biased variance per channel.

    The variance is the mean of squared deviations from the mean, not a difference of two large numbers.

    Args:
        x: [B, ..., C] float32.
        weight: of every example, 0 or 1, [B] float32.
        axis_name: the devices axis that the batch is spread over; None for this device's share alone.

    Returns:
        mean [C], variance [C] and the number of values that they were taken over.
    """
    sums, count = _total((_sums(x, weight), jnp.sum(weight) * x[0, ..., 0].size), axis_name)
    at_least_one = jnp.maximum(count, 1.0)
    mean = sums / at_least_one
    var = _total(_sums(jnp.square(x - mean), weight), axis_name) / at_least_one
    return mean, var, count


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalise_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array, axis_name: str | None, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Batch normalisation with the batch's own statistics (Ioffe & Szegedy 2015, algorithm 1).

    Its gradient is the paper's, in two sums and one pass over x, which is less than automatic differentiation makes of
    mean and variance. `normalise_batch.fun` is the same without it, for forward-mode derivatives.

    Args:
        x: [B, ..., C].
        scale: [C].
        bias: [C].
        weight: of every example, 0 or 1, [B] float32; no gradient flows to it.
        axis_name: the devices axis that the batch is spread over; None for this device's share alone.
        epsilon: added to the variance.

    Returns:
        [B, ..., C] float32, and `batch_statistics`.
    """
    x = x.astype(jnp.float32)
    mean, var, count = batch_statistics(x, weight, axis_name)
    return (x - mean) * (lax.rsqrt(var + epsilon) * scale) + bias, mean, var, count


def _normalise_forward(x, scale, bias, weight, axis_name, epsilon):
    y, mean, var, count = normalise_batch.fun(x, scale, bias, weight, axis_name, epsilon)
    return (y, mean, var, count), (x, scale, bias, weight, mean, lax.rsqrt(var + epsilon), count)


def _normalise_backward(axis_name, epsilon, saved, gradients):
    x, scale, bias, weight, mean, inverse, count = saved
    dy, d_mean, d_var, _ = gradients
    deviation = x.astype(jnp.float32) - mean
    all_rows = jnp.ones_like(weight)
    d_bias, d_scale = _sums(dy, all_rows), _sums(dy * deviation, all_rows) * inverse
    # The statistics are those of all devices, so what every device's outputs ask of them comes together here.
    rate = scale * inverse
    d_mean, d_var = _total((d_mean - rate * d_bias, d_var - 0.5 * rate * inverse * d_scale), axis_name)
    share = weight.reshape((-1,) + (1,) * (x.ndim - 1)) / jnp.maximum(count, 1.0)
    dx = dy * rate + share * (d_mean + 2.0 * d_var * deviation)
    return dx.astype(x.dtype), d_scale.astype(scale.dtype), d_bias.astype(bias.dtype), jnp.zeros_like(weight)


normalise_batch.defvjp(_normalise_forward, _normalise_backward)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """2x2 max-pooling with stride 2, [B, H, W, C] to [B, H // 2, W // 2, C]; an odd last row or column is dropped.

    Of equal values the first takes the gradient, as in PyTorch: on an image's constant background all four are equal.
    Written by hand because the gradient of `nn.max_pool` (select-and-scatter) takes nine times as long on CPU.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
    return _greatest(x)


@jax.custom_jvp
def _greatest(x: jax.Array) -> jax.Array:
    # A plain maximum, because XLA:CPU computes a whole forward of convolutions and maxima in one tiled pass, in half the
    # time that it takes with the selections of the gradient in between.
    return x.max((2, 4))


@_greatest.defjvp
def _greatest_jvp(primals, tangents):
    return jax.jvp(_first_greatest, primals, tangents)


def _first_greatest(x: jax.Array) -> jax.Array:
    top, bottom = _greater(x[:, :, 0, :, 0], x[:, :, 0, :, 1]), _greater(x[:, :, 1, :, 0], x[:, :, 1, :, 1])
    return _greater(top, bottom)


def _greater(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.where((second > first) | jnp.isnan(second), second, first)


class ImageClassifier(nn.Module):
    """What every network of this library is: a linen module with these options.

    Attributes:
        num_classes: K, the number of logits.
        mean: per-channel mean subtracted inside the network, or None.
        std: per-channel standard deviation divided by inside the network, or None.
        dtype: of the computation, e.g. "bfloat16"; parameters, statistics and logits are float32.
        forward_mode: keep forward-mode derivatives possible (see `Conv`).
    """

    num_classes: int = 10
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Any = "float32"
    forward_mode: bool = False

    @property
    def stochastic(self) -> bool:
        """Whether a training forward draws random numbers, such as dropout's; these need the key `dropout`."""
        return False

    def prepare(self, x: jax.Array) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] as the first layer expects them: normalised, in the compute dtype.

        Raises:
            InputError: `mean` or `std` has not one value per channel.
        """
        for field, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != x.shape[-1]:
                raise InputError(f"{field} has {len(values)} values, the images have {x.shape[-1]} channels")
        if self.mean is not None:
            x = x - jnp.asarray(self.mean, x.dtype)
        if self.std is not None:
            x = x / jnp.asarray(self.std, x.dtype)
        return x.astype(self.dtype)

    def makers(self) -> tuple[Callable[..., Conv], Callable[..., BatchNorm]]:
        """What makes this network's convolutions and its BatchNorms, dtype and switch set."""
        options = {"dtype": self.dtype, "forward_mode": self.forward_mode}
        return functools.partial(Conv, **options), functools.partial(BatchNorm, **options)


def global_average(x: jax.Array) -> jax.Array:
    """The mean over the pixels in float32, [B, H, W, C] to [B, C]."""
    return jnp.mean(x.astype(jnp.float32), (1, 2))
