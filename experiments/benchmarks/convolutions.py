"""The passes of ResNet-18's convolutions one by one: forward, gradient of the images, gradient of the kernel.

    python -m experiments.benchmarks.convolutions [--width=16] [--batch=128] [--size=32] [--repeats=9] [--results=FILE]

In arithmetic all three are equal. Each is measured as this library computes it on CPU (`advjax.models.convolution`) and
with XLA's own convolution and its gradients, in turns, both compiled with the same options. The last row is the sum over
the network, first layer and dense layer aside.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from absl import flags

from advjax import compiling
from advjax.models.convolution import convolution, cured_convolution
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


def _row(layer: tuple[int, int, int, int, int]) -> dict[str, float]:
    height, inputs, outputs, side, stride = layer
    x = jax.random.normal(jax.random.key(0), (FLAGS.batch, height, height, inputs))
    kernel = jax.random.normal(jax.random.key(1), (side, side, inputs, outputs))
    pad = ((side - 1) // 2,) * 2

    arguments = ((stride, stride), (pad, pad), 1)
    gradient = jnp.ones((FLAGS.batch, -(-height // stride), -(-height // stride), outputs))
    programs = {}
    for whose, convolve in (("", cured_convolution), (", XLA's own", convolution)):

        def backward(x, kernel, gradient, convolve=convolve):
            return jax.vjp(lambda x, kernel: convolve(x, kernel, *arguments), x, kernel)[1](gradient)

        passes = {
            "forward": lambda x, kernel, gradient, convolve=convolve: convolve(x, kernel, *arguments),
            "images' gradient": lambda *a, backward=backward: backward(*a)[0],
            "kernel's gradient": lambda *a, backward=backward: backward(*a)[1],
        }
        for name, form in passes.items():
            programs[name + whose] = jax.jit(form, compiler_options=compiling.options())
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
