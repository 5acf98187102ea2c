"""2-D convolutions in forms that XLA's CPU backend computes fast, forward and backward.

Same values as XLA's own convolution to rounding. `experiments.benchmarks.convolutions` has what each form saves.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]

NHWC = ("NHWC", "HWIO", "NHWC")
FEW_CHANNELS = 3  # of images
FEW_OUTPUTS = 24  # up to which pairs of pixels are faster; 32 are a sixth slower so


def convolution(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], groups: int) -> jax.Array:
    """XLA's convolution of x [B, H, W, I] with a kernel [h, w, I / groups, O], zeros around x; -> [B, H', W', O]."""
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC, feature_group_count=groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def cured_convolution(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], groups: int
) -> jax.Array:
    """A 2-D convolution that XLA's CPU backend computes fast, with gradients that it computes fast, in loops too.

    - The input gradient is an ordinary convolution with a kernel that is rearranged beforehand. The kernel of XLA's own
      is transposed inside the convolution, which leaves the fast path in a loop (jax-ml/jax issue 12868), and that of a
      strided one meets zeros (`_by_phases`).
    - A kernel of one pixel is a matrix product.
    - Few output channels are computed for two neighbouring pixels at a time (`_in_pairs`), those of an image's gradient
      as one matrix product (`_scattered`), a depthwise convolution as a sum (`_shifted_sum`).

    No forward-mode derivative, as of any custom VJP.

    Args:
        x: [B, H, W, I].
        kernel: [h, w, I / groups, O].
        strides: of the rows and columns.
        padding: (low, high) of the rows and of the columns.
        groups: the number of channel groups, 1 for an ordinary convolution.

    Returns:
        [B, H', W', O].
    """
    if _is_product(kernel, padding, groups):
        return x[:, :: strides[0], :: strides[1]] @ kernel[0, 0]
    return _forward(x, kernel, strides, padding, groups)


def _forward(x, kernel, strides, padding, groups):
    if _is_depthwise(x, kernel, groups):
        return _shifted_sum(x, kernel, strides, padding)
    width = x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1
    several = kernel.shape[1] > 1 and width % 2 == 0
    if groups == 1 and strides == (1, 1) and kernel.shape[3] <= FEW_OUTPUTS and several:
        return _in_pairs(x, kernel, padding)
    return convolution(x, kernel, strides, padding, groups)


def _saving(x, kernel, strides, padding, groups):
    return cured_convolution(x, kernel, strides, padding, groups), (x, kernel)


def _backward(strides, padding, groups, saved, gradient):
    x, kernel = saved
    if _is_product(kernel, padding, groups):
        seen = x[:, :: strides[0], :: strides[1]]
        x_gradient = _spread(gradient @ kernel[0, 0].T, (0, 0), x.shape, strides)
        return x_gradient, jnp.tensordot(seen, gradient, ((0, 1, 2), (0, 1, 2)))[None, None]
    if _is_depthwise(x, kernel, groups):
        _, vjp = jax.vjp(lambda kernel: _shifted_sum(x, kernel, strides, padding), kernel)
        return _depthwise_gradient(gradient, kernel, x.shape, strides, padding), vjp(gradient)[0]
    # Without this barrier XLA:CPU computes what makes the two anew, pixel by pixel, while it transposes them for the
    # kernel's gradient.
    x, gradient = lax.optimization_barrier((x, gradient))
    _, vjp = jax.vjp(lambda kernel: convolution(x, kernel, strides, padding, groups), kernel)
    few = groups == 1 and x.shape[3] <= FEW_CHANNELS
    x_gradient = (_scattered if few else _by_phases)(gradient, kernel, x.shape, strides, padding)
    return x_gradient, vjp(gradient)[0]


cured_convolution.defvjp(_saving, _backward)


def _is_product(kernel, padding, groups):
    return groups == 1 and kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0))


def _is_depthwise(x, kernel, groups):
    return groups > 1 and groups == x.shape[3] == kernel.shape[3]


def _in_pairs(x, kernel, padding):
    """A convolution of stride 1 and even width, two neighbouring output pixels at a time.

    The kernel holds two copies, the second a column further, and moves two columns a step. That is (w + 1) / w of the
    arithmetic, but with few output channels XLA:CPU spends most of its time on collecting the inputs, which happens
    half as often.
    """
    copies = [jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in range(2)]
    y = convolution(x, jnp.concatenate(copies, -1), (1, 2), padding, 1)
    return y.reshape(*y.shape[:2], 2 * y.shape[2], kernel.shape[3])


def _shifted_sum(x, kernel, strides, padding):
    """A depthwise convolution as a sum of shifted products: XLA's CPU backend has no fast grouped convolution."""
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)])
    rows, columns = kernel.shape[:2]
    height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True))
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            end = (x.shape[0], i + (height - 1) * strides[0] + 1, j + (width - 1) * strides[1] + 1, x.shape[3])
            total = total + lax.slice(x, (0, i, j, 0), end, (1, *strides, 1)) * kernel[i, j, 0]
    return total


def _spread(y, first, shape, strides):
    """Zeros of `shape`, but that y's pixels stand a stride apart from `first` on; what falls outside is dropped."""
    config = [
        (at, size - at - (out - 1) * stride - 1, stride - 1)
        for at, size, out, stride in zip(first, shape[1:3], y.shape[1:3], strides, strict=True)
    ]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _depthwise_gradient(gradient, kernel, shape, strides, padding):
    first = [k - 1 - low for k, (low, _) in zip(kernel.shape[:2], padding, strict=True)]
    around = [size + k - 1 for size, k in zip(shape[1:3], kernel.shape[:2], strict=True)]
    spread = _spread(gradient, first, (shape[0], *around, shape[3]), strides)
    return _shifted_sum(spread, kernel[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))


def _by_phases(gradient, kernel, shape, strides, padding):
    """The input gradient, a convolution of stride 1 for every phase: every place of an input pixel within a stride.

    Along one axis, input pixel s m + a takes tap a + low - s j of the kernel from output pixel m + j, so a phase has
    every s-th tap, in reverse order. XLA's own gradient has a zero for every product of another phase. A stride of 1
    has one phase, and this is a convolution with the flipped kernel.
    """
    rows, columns, inputs, outputs = kernel.shape
    groups = shape[3] // inputs
    taps = kernel[::-1, ::-1].reshape(rows, columns, inputs, groups, outputs // groups)
    taps = taps.transpose(0, 1, 4, 3, 2).reshape(rows, columns, outputs // groups, shape[3])
    # Without the barrier XLA folds the transposition back into the convolution.
    taps = lax.optimization_barrier(taps)
    down, right = (
        [_phase(a, *axis) for a in range(axis[1])]
        for axis in zip(kernel.shape, strides, padding, shape[1:], gradient.shape[1:], strict=False)
    )

    def phase(row, column):
        return _padded(gradient, taps[row.taps, column.taps], (row.pad, column.pad), groups)

    y = jnp.stack([jnp.stack([phase(row, column) for column in right], 3) for row in down], 2)
    y = y.reshape(shape[0], y.shape[1] * len(down), y.shape[3] * len(right), shape[3])
    return y[:, : shape[1], : shape[2]]


class _Phase(NamedTuple):
    taps: slice  # of the flipped kernel
    pad: Pair  # of the output's gradient


def _phase(a, k, stride, padding, size, out):
    first_tap = (a + padding[0]) % stride
    number = len(range(first_tap, k, stride))
    last_tap = first_tap + (number - 1) * stride
    low = (last_tap - a - padding[0]) // stride
    return _Phase(slice(k - 1 - last_tap, None, stride), (low, -(-size // stride) - out - low + number - 1))


def _padded(x, kernel, padding, groups):
    """A convolution of stride 1 whose kernel may be empty and whose padding may be negative."""
    if not kernel.size:
        sizes = [n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[1:3], padding, kernel.shape[:2], strict=True)]
        return jnp.zeros((x.shape[0], *sizes, kernel.shape[3]), x.dtype)
    # jaxlib 0.10 computes grouped convolutions of negative padding wrongly, so crop beforehand.
    crop = [(min(low, 0), min(high, 0), 0) for low, high in padding]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crop, (0, 0, 0)])
    return _forward(x, kernel, (1, 1), tuple((max(low, 0), max(high, 0)) for low, high in padding), groups)


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
            first = (i - padding[0][0], j - padding[1][0])
            total += _spread(products[:, :, :, i, j], first, shape, strides)
    return total.astype(gradient.dtype)
