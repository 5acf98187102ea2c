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

from advjax.errors import InputError

Initializer = Callable[..., jax.Array]
Pair = tuple[int, int]

NHWC = ("NHWC", "HWIO", "NHWC")
FEW_CHANNELS = 3  # of images


class TrainMode(NamedTuple):
    """A training forward: BatchNorm on the batch's own statistics.

    Attributes:
        weight: [B] of 0 or 1, one per example of this device's share; padding rows (0) count nothing. None: all count.
        axis_name: the devices axis that the batch is spread over, statistics being those of the whole batch; None for
            statistics of this device's share alone.
    """

    weight: jax.Array | None = None
    axis_name: str | None = None


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


def _convolution(x, kernel, strides, padding, groups, dilation=(1, 1)):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dilation, dimension_numbers=NHWC, feature_group_count=groups
    )


def _shifted_sum(x, kernel, strides, padding, dilation):
    """A depthwise convolution as a sum of shifted products: XLA's CPU backend has no fast grouped convolution."""
    config = [(low, high, hole - 1) for (low, high), hole in zip(padding, dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    rows, columns = kernel.shape[:2]
    height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True))
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            end = (x.shape[0], i + (height - 1) * strides[0] + 1, j + (width - 1) * strides[1] + 1, x.shape[3])
            total = total + lax.slice(x, (0, i, j, 0), end, (1, *strides, 1)) * kernel[i, j, 0]
    return total


def _forward(x, kernel, strides, padding, groups, dilation=(1, 1)):
    if groups > 1 and groups == x.shape[3] == kernel.shape[3]:
        return _shifted_sum(x, kernel, strides, padding, dilation)
    return _convolution(x, kernel, strides, padding, groups, dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def cured_convolution(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], groups: int):
    """A 2-D convolution whose input gradient stays fast inside loops on XLA's CPU backend.

    There the transposed kernel of an ordinary input gradient is folded into the convolution, which then leaves the fast
    path (jax-ml/jax issue 12868). Here the gradient is an ordinary convolution with a kernel that is flipped and
    transposed beforehand. Same values; no forward-mode derivative, as of any custom VJP.

    Args:
        x: [B, H, W, I].
        kernel: [h, w, I / groups, O].
        strides: of the rows and columns.
        padding: (low, high) of the rows and of the columns.
        groups: the number of channel groups, 1 for an ordinary convolution.

    Returns:
        [B, H', W', O].
    """
    return _forward(x, kernel, strides, padding, groups)


def _cured_forward(x, kernel, strides, padding, groups):
    return _forward(x, kernel, strides, padding, groups), (x, kernel)


def _cured_backward(strides, padding, groups, saved, gradient):
    x, kernel = saved
    _, kernel_vjp = jax.vjp(lambda k: _forward(x, k, strides, padding, groups), kernel)
    if groups == 1 and x.shape[3] <= FEW_CHANNELS:
        return _scattered(gradient, kernel, x.shape, strides, padding), kernel_vjp(gradient)[0]
    rows, columns, inputs, outputs = kernel.shape
    swapped = kernel[::-1, ::-1].reshape(rows, columns, inputs, groups, outputs // groups)
    swapped = swapped.transpose(0, 1, 4, 3, 2).reshape(rows, columns, outputs // groups, groups * inputs)
    # Without the barrier XLA folds the transposition back into the convolution.
    swapped = lax.optimization_barrier(swapped)
    pads = tuple(
        (k - 1 - low, size + low - (out - 1) * stride - 1)
        for size, out, k, stride, (low, _) in zip(
            x.shape[1:3], gradient.shape[1:3], kernel.shape[:2], strides, padding, strict=True
        )
    )
    spread, dilation = gradient, strides
    if min(min(pair) for pair in pads) < 0:
        # jaxlib 0.10 computes grouped convolutions of negative padding wrongly, so crop beforehand.
        crop = [(min(low, 0), min(high, 0), stride - 1) for (low, high), stride in zip(pads, strides, strict=True)]
        spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *crop, (0, 0, 0)])
        pads, dilation = tuple((max(low, 0), max(high, 0)) for low, high in pads), (1, 1)
    x_gradient = _forward(spread, swapped, (1, 1), pads, groups, dilation)
    return x_gradient, kernel_vjp(gradient)[0]


def _scattered(gradient, kernel, shape, strides, padding):
    """The input gradient as one matrix product and a sum of shifted images.

    A convolution with one to three output channels, what the gradient of a network's first layer is, leaves nearly all
    of XLA:CPU's matrix product idle; this takes a quarter (16 channels) to two thirds (64) of its time there.
    """
    rows, columns, inputs, outputs = kernel.shape
    taps = kernel.transpose(3, 0, 1, 2).reshape(outputs, -1)
    products = jnp.matmul(gradient.reshape(-1, outputs), taps, preferred_element_type=jnp.float32)
    products = products.reshape(*gradient.shape[:3], rows, columns, inputs)
    total = jnp.zeros(shape, products.dtype)
    for i in range(rows):
        for j in range(columns):
            config = []
            for size, out, stride, (low, _), at in zip(
                shape[1:3], gradient.shape[1:3], strides, padding, (i, j), strict=True
            ):
                first = at - low
                config.append((first, size - first - (out - 1) * stride - 1, stride - 1))
            total += lax.pad(products[:, :, :, i, j], jnp.zeros((), total.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    return total.astype(gradient.dtype)


cured_convolution.defvjp(_cured_forward, _cured_backward)


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
        pair = (padding, padding) if isinstance(padding, int) else tuple(padding)
        cured = jax.default_backend() == "cpu" and not self.forward_mode
        convolve = cured_convolution if cured else _convolution
        y = convolve(x, kernel, (self.stride, self.stride), (pair, pair), self.groups)
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
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-5
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: Train = False) -> jax.Array:
        """[B, ..., C] to the same shape."""
        shape = x.shape[-1:]
        scale = self.param("scale", jax.nn.initializers.ones, shape)
        bias = self.param("bias", jax.nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x = x.astype(jnp.float32)
        if train:
            mean, var, count = batch_statistics(x, TrainMode() if train is True else train)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
                running_mean.value = self.momentum * running_mean.value + (1.0 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1.0 - self.momentum) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)


def batch_statistics(x: jax.Array, train: TrainMode) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and biased variance per channel over the batch that `train` describes.

    The variance is the mean of squared deviations from the mean, not a difference of two large numbers.

    Args:
        x: [B, ..., C] float32.
        train: the weight of every example and the devices axis, if any.

    Returns:
        mean [C], variance [C] and the number of values that they were taken over.
    """
    weight = jnp.ones(x.shape[0]) if train.weight is None else train.weight.astype(jnp.float32)
    weight = weight.reshape((-1,) + (1,) * (x.ndim - 1))
    axes = tuple(range(x.ndim - 1))
    values_per_example = x[0, ..., 0].size

    def total(value):
        return value if train.axis_name is None else lax.psum(value, train.axis_name)

    sums, count = total((jnp.sum(x * weight, axes), jnp.sum(weight) * values_per_example))
    at_least_one = jnp.maximum(count, 1.0)
    mean = sums / at_least_one
    var = total(jnp.sum(jnp.square(x - mean) * weight, axes)) / at_least_one
    return mean, var, count


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


class Network(nn.Module):
    """The options that every network has.

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
        conv = functools.partial(Conv, dtype=self.dtype, forward_mode=self.forward_mode)
        return conv, functools.partial(BatchNorm, dtype=self.dtype)


def global_average(x: jax.Array) -> jax.Array:
    """The mean over the pixels in float32, [B, H, W, C] to [B, C]."""
    return jnp.mean(x.astype(jnp.float32), (1, 2))
