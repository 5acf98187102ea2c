"""A training step compiled with `advjax.compiling.options` and as JAX compiles by default, in turns; for a CPU.

    python -m experiments.benchmarks.compile_options [--networks=resnet18:16:128,resnet18:64:32] [--steps=10]
        [--size=32] [--repeats=5] [--results=FILE]

A network is NAME:width:batch; the step is PGD adversarial training in float32.
"""

from __future__ import annotations

import jax
from absl import flags

from advjax.errors import InputError
from experiments.benchmarks import common, steps

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", ["resnet18:16:128", "resnet18:64:32"], "NAME:width:batch")
flags.DEFINE_integer("steps", 10, "K")
flags.DEFINE_integer("size", 32, "height and width of the images")


def main() -> None:
    """Prints two rows per network."""
    report = common.Report(f"PGD-{FLAGS.steps} adversarial training step by compile options")
    if jax.default_backend() != "cpu":
        raise InputError(f"this benchmark is for the CPU backend, JAX runs on {jax.default_backend()}")
    for text in FLAGS.networks:
        options, forms = steps.parse(text), {}
        for name, plain in (("advjax.compiling.options()", False), ("default", True)):
            forms[name] = steps.Step(steps.pgd_at(FLAGS.steps, size=FLAGS.size, **options))
            forms[name].compile(plain=plain)
        times = common.measure(forms, FLAGS.repeats)
        for name, row in times.items():
            ratio = common.over(row, times["advjax.compiling.options()"])
            report.add(text, options=name, **common.seconds(row), **{"over the first": ratio})


if __name__ == "__main__":
    common.run(main)
