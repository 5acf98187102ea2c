"""Forward and gradient of every network: one row each.

    python -m experiments.benchmarks.networks [--networks=resnet18,vit] [--batch=8] [--dtypes=float32,bfloat16]
        [--scale=full|toy] [--repeats=3] [--results=FILE]

Gradient means the gradient of the summed cross-entropy with respect to the images, what one attack step costs. `toy`
narrows the networks so that every row runs on a small CPU; the figures then compare code, not hardware.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from advjax import compiling, losses, models
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", [], "names; all if absent")
flags.DEFINE_integer("batch", 8, "images")
flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "of the computation")
flags.DEFINE_enum("scale", "full", ["full", "toy"], "toy: narrow networks")
IMAGES = {"small_cnn": (28, 28, 1), "tiny_cnn": (8, 8, 1)}
NARROW = {"mobilenet_v2": 0.25, "vit": 48, "small_cnn": 8, "tiny_cnn": 8}


def _narrow(name: str) -> dict[str, Any]:
    return {"width": 1 if name.startswith("wrn") else NARROW.get(name, 8)}


def _row(name: str, dtype: str) -> dict[str, Any]:
    shape = IMAGES.get(name, (32, 32, 3))
    module = models.create(name, 10, dtype=dtype, **(_narrow(name) if FLAGS.scale == "toy" else {}))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), models.variable_shapes(module, shape))
    x = jax.random.uniform(jax.random.key(1), (FLAGS.batch, *shape))
    y = jnp.zeros(FLAGS.batch, jnp.int32)
    function = models.logits_fn(module, variables)
    jit = functools.partial(jax.jit, compiler_options=compiling.options())
    forward = jit(lambda f, x: f(x))
    gradient = jit(jax.grad(lambda x, f: losses.cross_entropy(f(x), y).sum()))
    forms = {"forward": lambda: forward(function, x), "gradient": lambda: gradient(x, function)}
    measured = common.measure(forms, FLAGS.repeats)
    return {
        "network": name,
        "dtype": dtype,
        "parameters": models.parameter_count(module, shape),
        "batch": FLAGS.batch,
        **{f"{form} ms": 1000 * times["median"] for form, times in measured.items()},
        "compile s": sum(times["first"] - times["median"] for times in measured.values()),
    }


def main() -> None:
    """Prints a row per network and dtype as it is measured."""
    report = common.Report(f"Forward and gradient of networks, batch {FLAGS.batch}, scale {FLAGS.scale}")
    for name in FLAGS.networks or models.names():
        for dtype in FLAGS.dtypes:
            report.add("Networks", **_row(name, dtype))


if __name__ == "__main__":
    common.run(main)
