"""How close a PGD-K adversarial training step comes to the hardware.

    python -m experiments.benchmarks.accelerator --out=FOLDER [--networks=resnet18,wrn_34_10]
        [--precisions=bfloat16,float32] [--batches=128,256,512,1024,2048] [--steps=10] [--width=0]
        [--products=2048,4096,8192,16384] [--repeats=3] [--trace] [--toy]

A row per network, precision and batch size, written to FOLDER/rows.json as soon as it is known: images per second,
seconds per CIFAR-10 epoch (50,000 images), the share of the peak, memory. The peak is that of the largest square matrix
product of the same precision (float32: as JAX multiplies by default, TF32 on NVIDIA), measured first in the same run.
Model arithmetic is counted from the shapes (`experiments.benchmarks.passes.flops`): one forward in evaluation mode,
times 2K + 3. Memory is what XLA plans for the step, and the allocator's peak since the start, where the device says it.
`--trace` also writes a profiler trace of three steps per row, to be opened in Perfetto, XProf or TensorBoard, and on a
GPU a second table: the milliseconds of a step by kernel, longest first. `--toy` runs everything on a tiny network in less
than a minute on a CPU.
"""

from __future__ import annotations

import collections
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
from absl import flags

from advjax import models
from experiments.benchmarks import common, steps
from experiments.benchmarks.passes import flops

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "folder of the rows and traces", required=True)
flags.DEFINE_list("networks", ["resnet18", "wrn_34_10"], "names")
flags.DEFINE_list("precisions", ["bfloat16", "float32"], "of the activations")
flags.DEFINE_list("batches", ["128", "256", "512", "1024", "2048"], "global batch sizes")
flags.DEFINE_integer("steps", 10, "K")
flags.DEFINE_integer("width", 0, "of the networks; 0: their own")
flags.DEFINE_list("products", ["2048", "4096", "8192", "16384"], "sizes of the matrix products")
flags.DEFINE_bool("trace", False, "also write profiler traces")
flags.DEFINE_bool("toy", False, "a tiny network, small batches, small products")

EPOCH = 50_000
PRODUCTS = 16
TRACED, LONGEST = 3, 60  # steps in a trace; kernels in its table


@functools.partial(jax.jit, donate_argnums=0)
def _products(a, b):
    return jax.lax.fori_loop(0, PRODUCTS, lambda _, a: a @ b, a)


def matmul_peak(precision: str, sizes: tuple[int, ...]) -> tuple[float, int]:
    """The highest rate of square matrix products, in floating-point operations per second, and the size it is of."""
    best = (0.0, 0)
    for size in sizes:
        # An orthogonal-like factor keeps the values finite through the chain.
        b = jax.random.normal(jax.random.key(0), (size, size), precision) * jnp.asarray(size**-0.5, precision)
        carry = [jnp.ones((size, size), precision)]

        def once(carry=carry, b=b):
            carry[0] = _products(carry[0], b)
            return carry[0]

        seconds = common.measure({"products": once}, max(FLAGS.repeats, 5))["products"]["min"]
        best = max(best, (2 * size**3 * PRODUCTS / seconds, size))
    return best


def kernels(folder: pathlib.Path) -> dict[str, float]:
    """Kernel, without its number -> milliseconds in a trace, longest first; empty where no device wrote one (CPU)."""
    times: dict[str, float] = collections.defaultdict(float)
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if not plane.name.startswith("/device:"):
                continue
            # A GPU's streams; beside them lie lines of the same time summed up by operation and module.
            for line in (line for line in plane.lines if line.name.startswith("Stream")):
                for event in line.events:
                    times[re.sub(r"[._]\d+$", "", event.name)] += event.duration_ns / 1e6
    return dict(sorted(times.items(), key=lambda pair: -pair[1]))


def _row(name: str, precision: str, batch: int, peak: float) -> tuple[dict[str, float], dict[str, float]]:
    """-> the table's row, and milliseconds of a step by kernel."""
    run = steps.experiment(
        "pgd_at",
        network=name,
        width=FLAGS.width,
        batch=batch,
        steps=FLAGS.steps,
        precision=precision,
        clean_statistics=False,
    )
    module, shape = run.modules["model"], run.dataset.image_shape
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    forward = flops(lambda variables, x: module.apply(variables, x), models.variable_shapes(module, shape), images)
    step = steps.Step(run)
    plan = step.compile().memory_analysis()
    times = common.measure({"step": step}, FLAGS.repeats)["step"]
    statistics = run.devices[0].memory_stats() or {}
    by_kernel: dict[str, float] = {}
    if FLAGS.trace:
        folder = pathlib.Path(FLAGS.out) / f"trace-{name}-{precision}-{batch}"
        with jax.profiler.trace(str(folder)):
            jax.block_until_ready([step() for _ in range(TRACED)])
        by_kernel = {kernel: time / TRACED for kernel, time in kernels(folder).items()}
    seconds, rate = times["median"], forward * (2 * FLAGS.steps + 3) / times["median"]
    row = {
        **common.seconds(times),
        "images/s": batch / seconds,
        "s per epoch": seconds * EPOCH / batch,
        "TFLOP/s": rate / 1e12,
        "share of peak": rate / peak,
        "temporary MiB": plan.temp_size_in_bytes / 2**20,
        "arguments MiB": plan.argument_size_in_bytes / 2**20,
        "peak MiB": statistics.get("peak_bytes_in_use", 0) / 2**20,
    }
    return row, by_kernel


def main() -> None:
    """Prints the peaks and a row per step."""
    if FLAGS.toy:
        small = {"networks": ["tiny_cnn"], "width": 8, "batches": ["16", "32"], "products": ["256", "512"]}
        for name, value in small.items():
            setattr(FLAGS, name, value)
    if not FLAGS.results:
        FLAGS["results"].value = str(pathlib.Path(FLAGS.out) / "rows.json")
    report = common.Report(f"PGD-{FLAGS.steps} adversarial training step against the hardware")
    peaks = {}
    for precision in FLAGS.precisions:
        peaks[precision], size = matmul_peak(precision, tuple(map(int, FLAGS.products)))
        report.add("Matrix products", precision=precision, size=size, **{"TFLOP/s": peaks[precision] / 1e12})
    for name in FLAGS.networks:
        for precision in FLAGS.precisions:
            for batch in map(int, FLAGS.batches):
                place = {"network": name, "precision": precision, "batch": batch}
                try:
                    row, by_kernel = _row(name, precision, batch, peaks[precision])
                except jax.errors.JaxRuntimeError as error:  # out of memory; smaller ones may still fit
                    report.add("Failed", **place, error=str(error).splitlines()[0])
                    continue
                report.add("Steps", **place, **row)
                shown = list(by_kernel.items())[:LONGEST]
                rest = sum(by_kernel.values()) - sum(time for _, time in shown)
                for kernel, time in [*shown, *([("the others", rest)] if rest else [])]:
                    report.add("Kernels", **place, kernel=kernel, ms=time)


if __name__ == "__main__":
    common.run(main)
