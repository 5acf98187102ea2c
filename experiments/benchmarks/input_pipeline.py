"""What decoding pictures costs: images per second and core, memory over an epoch, and what steps ask for.

    python -m experiments.benchmarks.input_pipeline [--pictures=2000] [--workers=0] [--batch=256] [--folder=FOLDER]
        [--memory=2000,20000,200000] [--memory_steps=0] [--chips=H100,TPU v5e] [--steps=0,1,3,10]
        [--utilisation=0.4] [--results=FILE]

1. Rate: synthetic JPEGs of 500 x 375 (ImageNet's usual size, about 90 KB each) through the training crop (random
   resized crop to 224) and the evaluation crop, in this process; then through `advjax.data.stream` with worker
   processes. CPU seconds are those of the processes at work, so that others on the machine do not count.
2. Memory: for every number in `--memory` an epoch (or its first steps) over as many JPEGs of 224 x 224; resident memory
   of this process and of all workers together, after the first batch and at most. Libraries count in every process.
3. Needs, computed and not measured: images per second that a step of PGD-K adversarial training (`passes`: 2K + 3, K = 0
   natural) takes of a chip at its published peak (bfloat16, dense) times `--utilisation`; the cores that decode them at
   the measured rate; and from how much arithmetic in a forward on the input no longer limits, for the host's cores per
   chip.

Pictures are written to `--folder` if it is given, and to a temporary one, which is removed, otherwise.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from absl import flags

from advjax import models
from advjax.data import Course, Dataset, load, stream
from experiments.benchmarks import common
from experiments.benchmarks.passes import Passes, flops

FLAGS = flags.FLAGS
flags.DEFINE_integer("pictures", 2000, "of the rate")
flags.DEFINE_list("memory", [], "numbers of pictures over whose epochs memory is measured")
flags.DEFINE_integer("memory_steps", 0, "of these epochs, the first so many; 0: all")
flags.DEFINE_integer("workers", 0, "processes that decode; 0: one less than there are cores")
flags.DEFINE_integer("batch", 256, "images")
flags.DEFINE_string("folder", "", "where pictures are written; a temporary folder if absent")
flags.DEFINE_list("steps", ["0", "1", "3", "10"], "K of PGD-K; 0: natural training")
flags.DEFINE_float("utilisation", 0.4, "share of the published peak that a step sustains")
flags.DEFINE_list("chips", ["H100", "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e"], "of the table of needs")

# Published: bfloat16 peak in TFLOP/s, and CPU cores (hardware threads where the maker says vCPU) per chip of a usual host:
# DGX H100 112 cores, 8 chips; ct4p-hightpu-4t 240, 4; ct5lp-hightpu-4t 112, 4; ct5p-hightpu-4t 208, 4; ct6e-standard-4t
# 180, 4.
CHIPS = {"H100": (989, 14), "TPU v4": (275, 60), "TPU v5e": (197, 28), "TPU v5p": (459, 52), "TPU v6e": (918, 45)}
NETWORKS: dict[str, dict] = {
    "resnet18": {"stem": "imagenet"},
    "resnet50": {"stem": "imagenet"},
    "convnext_t": {"stem": "conv"},
    "vit_b_16": {},
}
PGD = Passes(2, 3)
DISTINCT = 32


def _jpegs(height: int, width: int, noise: float) -> list[bytes]:
    """Smooth colours and noise, so that they compress as photographs do."""
    from PIL import Image

    rng, made = np.random.default_rng(0), []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, noise, (height, width, 1))
        stream = io.BytesIO()
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def write(root: pathlib.Path, count: int, height: int, width: int, noise: float) -> float:
    """Writes a folder of `count` pictures in 100 classes (fewer for fewer), unless it is there; its kilobytes a picture."""
    jpegs, classes = _jpegs(height, width, noise), min(100, count)
    for part, number in (("train", count), ("val", classes)):
        for label in range(classes):
            (root / part / f"n{label:03d}").mkdir(parents=True, exist_ok=True)
        for i in range(number):
            file = root / part / f"n{i % classes:03d}" / f"{i:07d}.JPEG"
            if not file.exists():
                file.write_bytes(jpegs[i % DISTINCT])
    return float(np.mean([len(jpeg) for jpeg in jpegs])) / 1000


def _course(dataset: Dataset) -> Course:
    return Course(0, len(dataset.train.label), FLAGS.batch, epochs=1)


def _workers() -> int:
    return FLAGS.workers or max(1, (os.cpu_count() or 2) - 1)


def _at_work() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def rates(report: common.Report, root: pathlib.Path) -> float:
    """Adds the rates; returns images per second of one core, training crop."""
    kilobytes = write(root, FLAGS.pictures, 375, 500, 14.0)
    dataset = load("image_folder", root, image_size=224, resize=256, crop="random", streaming=True)
    pictures, rows = dataset.train.image, range(min(FLAGS.pictures, 500))
    forms = {
        "training crop": lambda row: pictures.sample(row, 0, 0),  # type: ignore[attr-defined]
        "evaluation crop": lambda row: pictures[row],
    }
    per_core = {}
    for name, form in forms.items():
        form(0)
        started = time.process_time()
        for row in rows:
            form(row)
        per_core[name] = len(rows) / (time.process_time() - started)
        report.add(
            "Rate", what=f"{name}, this process", workers=0, KB=kilobytes, **{"images/s per core": per_core[name]}
        )
    with contextlib.closing(stream(dataset.train, _course(dataset), _workers())) as batches:
        next(batches)
        processes = [psutil.Process(), *_at_work()]
        seen, begun, started = 0, _cpu_seconds(processes), time.perf_counter()
        for batch in batches:
            seen += len(batch.image)
            spent, seconds = _cpu_seconds(processes) - begun, time.perf_counter() - started
    report.add(
        "Stream",
        workers=_workers(),
        **{"images/s": seen / seconds, "images/s per core": seen / spent, "MB/s": seen * 0.150528 / seconds},
    )
    return per_core["training crop"]


def memory(report: common.Report, root: pathlib.Path, count: int) -> None:
    """Adds what an epoch over `count` pictures takes."""
    write(root, count, 224, 224, 4.0)
    own = psutil.Process()
    before = own.memory_info().rss
    dataset = load("image_folder", root, image_size=224, crop="random", streaming=True)
    first, most, steps, started = None, (0, 0), 0, time.perf_counter()
    with contextlib.closing(stream(dataset.train, _course(dataset), _workers())) as batches:
        for _ in itertools.islice(batches, FLAGS.memory_steps or None):
            rss = (own.memory_info().rss, sum(process.memory_info().rss for process in _alive()))
            steps += 1
            first, most = first or rss, (max(most[0], rss[0]), max(most[1], rss[1]))
    assert first is not None
    report.add(
        "Memory",
        pictures=count,
        steps=steps,
        **{
            "decoded GB": count * 0.000150528,
            "before MiB": before / 2**20,
            "first batch MiB": first[0] / 2**20,
            "at most MiB": most[0] / 2**20,
            "workers, first MiB": first[1] / 2**20,
            "workers, at most MiB": most[1] / 2**20,
            "seconds": time.perf_counter() - started,
        },
    )


def _alive() -> Iterator[psutil.Process]:
    for process in _at_work():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def needs(report: common.Report, per_core: float) -> None:
    """Adds what steps ask for, computed from counted arithmetic and published peaks."""
    forward = {}
    for name, options in NETWORKS.items():
        module = models.create(name, 1000, **options)
        image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        variables = models.variable_shapes(module, (224, 224, 3))
        forward[name] = flops(lambda v, x, m=module: m.apply(v, x), variables, image)
    for chip in FLAGS.chips:
        peak, cores = CHIPS[chip]
        sustained = peak * 1e12 * FLAGS.utilisation
        for steps in map(int, FLAGS.steps):
            eaten = {name: sustained / (each * PGD(steps)) for name, each in forward.items()}
            fed = cores * per_core
            free = [name for name in sorted(forward, key=lambda name: forward[name]) if eaten[name] <= fed]
            report.add(
                "Needs (computed)",
                chip=chip,
                K=steps,
                **{f"{name} images/s": eaten[name] for name in forward},
                **{"host feeds": fed, "limits no more from": free[0] if free else "none of these"},
                **{"that is GFLOP a forward": sustained / (fed * PGD(steps)) / 1e9},
            )


def main() -> None:
    """Measures rate and memory, computes needs."""
    report = common.Report(f"The input pipeline, batch {FLAGS.batch}, {FLAGS.utilisation:.0%} of the published peaks")
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(FLAGS.folder or temporary)
        per_core = rates(report, root / f"rate-{FLAGS.pictures}")
        for count in map(int, FLAGS.memory):
            memory(report, root / f"memory-{count}", count)
    needs(report, per_core)


if __name__ == "__main__":
    common.run(main)
