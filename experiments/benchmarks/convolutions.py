"""The passes of ResNet-18's convolutions one by one: forward, gradient of the images, gradient of the kernel.

    python -m experiments.benchmarks.convolutions [--width=16] [--batch=128] [--size=32] [--repeats=9] [--json=FILE]

In arithmetic all three are equal. The last column is the kernel's gradient in another formulation: a matrix product of
the shifted images with the output's gradient for every position of the kernel. The last row is the sum over the network,
first layer and dense layer aside.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from advjax import compiling
from advjax.models.convolution import cured_convolution
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_integer("width", 16, "channels of the first stage")
flags.DEFINE_integer("batch", 128, "images")
flags.DEFINE_integer("size", 32, "height and width of the images")


def layers(width: int, size: int) -> dict[tuple[int, int, int, int, int], int]:
    """(height, input channels, output channels, kernel side, stride) -> how often ResNet-18 has it."""
    found = {(size, width, width, 3, 1): 4}
    for stage in range(1, 4):
        height, inputs, outputs = size >> (stage - 1), width << (stage - 1), width << stage
        found[height, inputs, outputs, 3, 2] = found[height, inputs, outputs, 1, 2] = 1
        found[height // 2, outputs, outputs, 3, 1] = 3
    return found


def products(x: jax.Array, gradient: jax.Array, side: int, stride: int) -> jax.Array:
    """The kernel's gradient as `side`^2 matrix products; x [B, H, W, I], gradient [B, H', W', O]."""
    pad = (side - 1) // 2
    batch, height, width, outputs = gradient.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    taps = []
    for i, j in np.ndindex(side, side):
        end = (batch, i + (height - 1) * stride + 1, j + (width - 1) * stride + 1, x.shape[3])
        shifted = jax.lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))
        taps.append(shifted.reshape(-1, x.shape[3]).T @ gradient.reshape(-1, outputs))
    return jnp.stack(taps).reshape(side, side, x.shape[3], outputs)


def _row(layer: tuple[int, int, int, int, int]) -> dict[str, float]:
    height, inputs, outputs, side, stride = layer
    x = jax.random.normal(jax.random.key(0), (FLAGS.batch, height, height, inputs))
    kernel = jax.random.normal(jax.random.key(1), (side, side, inputs, outputs))
    pad = ((side - 1) // 2,) * 2

    def convolve(x, kernel):
        return cured_convolution(x, kernel, (stride, stride), (pad, pad), 1)

    gradient = jnp.ones_like(convolve(x, kernel))
    passes = {
        "forward": lambda x, kernel, gradient: convolve(x, kernel),
        "images' gradient": lambda x, kernel, gradient: jax.vjp(convolve, x, kernel)[1](gradient)[0],
        "kernel's gradient": lambda x, kernel, gradient: jax.vjp(convolve, x, kernel)[1](gradient)[1],
        "the same as products": lambda x, kernel, gradient: products(x, gradient, side, stride),
    }
    programs = {name: jax.jit(form, compiler_options=compiling.options()) for name, form in passes.items()}
    forms = {name: lambda program=program: program(x, kernel, gradient) for name, program in programs.items()}
    return {name: times["median"] for name, times in common.measure(forms, FLAGS.repeats).items()}


def main() -> None:
    """Prints a row per layer and the sum."""
    report = common.Report(
        f"Convolutions of ResNet-18, width {FLAGS.width}, batch {FLAGS.batch}, float32, medians in ms"
    )
    total: dict[str, float] = {}
    for layer, count in layers(FLAGS.width, FLAGS.size).items():
        height, inputs, outputs, side, stride = layer
        row = _row(layer)
        total = {name: total.get(name, 0.0) + count * seconds for name, seconds in row.items()}
        name = f"{height} x {height}, {inputs} to {outputs}, {side} x {side}, stride {stride}"
        report.add("Passes", layer=name, count=count, **{name: 1000 * seconds for name, seconds in row.items()})
    report.add("Passes", layer="sum", count="", **{name: 1000 * seconds for name, seconds in total.items()})


if __name__ == "__main__":
    common.run(main)
