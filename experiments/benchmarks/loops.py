"""The CPU loop trap: a PGD inner loop in four forms, side by side.

    python -m experiments.benchmarks.loops [--width=16] [--batch=64] [--steps=5] [--repeats=3] [--results=FILE]

XLA's CPU backend runs a convolution's input gradient 6 to 13 times slower inside a loop than outside (jax-ml/jax issue
12868). Compared are: XLA's own convolution in `fori_loop`; the same with a host loop over the jitted step, which is
what `advjax.attacks.engine.loops.repeat` does for networks that are not ours; the cured convolution of
`advjax.models.layers.Conv` in `fori_loop`; and unrolled. On an accelerator all four should take the same time.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from absl import flags

from advjax import compiling, losses, models
from advjax.attacks.engine.loops import as_partial
from advjax.attacks.pgd import Ascent, objective_of
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_integer("width", 16, "channels of the first stage of the ResNet-18")
flags.DEFINE_integer("batch", 64, "images")
flags.DEFINE_integer("steps", 5, "PGD steps")


def main() -> None:
    """Prints the table."""
    x = jax.random.uniform(jax.random.key(0), (FLAGS.batch, 32, 32, 3))
    y = jax.random.randint(jax.random.key(1), (FLAGS.batch,), 0, 10)
    module = models.create("resnet18", 10, width=FLAGS.width)
    variables = models.init(module, jax.random.key(2), (32, 32, 3))
    cured = models.logits_fn(module, variables)
    plain = models.logits_fn(models.create("resnet18", 10, width=FLAGS.width, forward_mode=True), variables)
    jit = functools.partial(jax.jit, compiler_options=compiling.options())
    ids, key, step = jnp.arange(FLAGS.batch), jax.random.key(3), Ascent("linf")

    def once(i, x_adv, logits_fn):
        objective = as_partial(objective_of(logits_fn, y, losses.cross_entropy))
        return step(i, (x_adv, (), ()), objective, x, 8 / 255, 2 / 255, key, ids)[0]

    @jit
    def in_loop(logits_fn, x):
        return jax.lax.fori_loop(0, FLAGS.steps, lambda i, x_adv: once(i, x_adv, logits_fn), x)

    @jit
    def unrolled(logits_fn, x):
        for i in range(FLAGS.steps):
            x = once(i, x, logits_fn)
        return x

    jitted = jit(once)

    def on_host(logits_fn, x):
        for i in range(FLAGS.steps):
            x = jitted(i, x, logits_fn)
        return x

    forms = {
        "plain convolution, fori_loop": lambda: in_loop(plain, x),
        "plain convolution, host loop": lambda: on_host(plain, x),
        "cured convolution, fori_loop": lambda: in_loop(cured, x),
        "cured convolution, unrolled": lambda: unrolled(cured, x),
    }
    title = f"PGD-{FLAGS.steps}, ResNet-18 of width {FLAGS.width}, batch {FLAGS.batch}, float32"
    common.compare(title, forms)


if __name__ == "__main__":
    common.run(main)
