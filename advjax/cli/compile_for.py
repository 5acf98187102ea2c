"""Compiles a config's programs for an accelerator that is not there, and says what the compiler says of them.

python -m experiments.compile_for --config=trades:cifar10 --target=v5e:2x2 [--config.field=value ...]
advjax-compile-for --config=trades:cifar10 --target=v5e:2x2    # the same, anywhere, once advjax is installed

The training step, the evaluation's forward and AutoAttack's attacks as they are run, for one TPU chip (`v5e`, `v5p`,
`v6e`), a slice (`v5e:2x2`) or one GPU (`h100`, `h200`). TPUs need XLA's compiler for them, pip install
"advjax[tpu-aot]", in an environment of its own if JAX is to find no TPU otherwise; GPUs JAX's CUDA plugin. Nothing runs
and no data is read of the data sets whose shapes are known. All figures are the compiler's word for one chip and one
call (a step; a forward; an attack's iterations between two looks at who is done), and the times are what the arithmetic
and the memory traffic take at the chip's published peaks: no measurement.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from advjax import cli
from advjax.errors import InputError, unknown

if TYPE_CHECKING:
    from advjax.runs import Config

FLAGS = flags.FLAGS
flags.DEFINE_string("target", "v5e", "v5e, v5p, v6e: one chip; v5e:2x2: a slice; h100, h200: one GPU")
flags.DEFINE_list("programs", [], "of: step, forward, apgd_ce, apgd_t, fab_t, square; empty: all")
flags.DEFINE_integer("batch_size", 0, "of the training step, over all chips; 0: the config's")
flags.DEFINE_bool("all_phases", False, "the step of every phase of the method, not of the last one alone")
flags.DEFINE_bool("largest_batch", False, "find the largest batch of the training step that fits")
flags.DEFINE_bool("full_effort", False, "compile as for a run: minutes a program, and cycles that can be compared")
flags.DEFINE_string("report", "", "also write everything to this file, as JSON")
flags.DEFINE_string("texts", "", "also write the compiled programs' texts to this folder")
NAMES = (
    "config", "target", "programs", "batch_size", "all_phases", "largest_batch", "full_effort", "report", "texts",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_compile, argv)


def _compile(argv: list[str]) -> None:
    if cli.wants_help(argv):
        return cli.print_help(__doc__, NAMES)
    config = cli.parse(argv, names=NAMES)
    assert config is not None
    from advjax import aot

    names = FLAGS.programs or list(aot.NAMES)
    for name in names:
        if name not in aot.NAMES:
            raise unknown("program", name, aot.NAMES, "--programs")
    if FLAGS.batch_size < 0:
        raise InputError(f"must be at least 1, or 0 for the config's; it is {FLAGS.batch_size}", "--batch_size")
    aot.prepare()
    chip, devices = aot.CHIPS[aot.parse(FLAGS.target)[0]], aot.devices(FLAGS.target)
    config = dataclasses.replace(config, batch_size=FLAGS.batch_size or config.batch_size)
    report: dict[str, Any] = {
        "command": " ".join(["python -m experiments.compile_for", *argv[1:]]),
        "versions": _versions(),
        "target": FLAGS.target,
        "chip": {"memory": chip.memory, "bandwidth": chip.bandwidth, "bfloat16": chip.rates["bf16", "default"]},
        "full_effort": FLAGS.full_effort,
        "config": {"method": config.method["name"], "network": config.network["name"], "precision": config.precision},
        "programs": [],
    }
    run = aot.experiment(config, devices)
    print(f"{' '.join(argv[1:])}\n{len(run.devices)} x {devices[0].device_kind}, {_said(report['versions'])}\n")
    _line(*aot.HEADER)
    _line(*["---"] * len(aot.HEADER))
    for task in aot.tasks(run, names, all_phases=FLAGS.all_phases):
        try:
            row, text = aot.compile_task(task, chip, low_effort=not FLAGS.full_effort)
        except aot.DoesNotFit as error:
            report["programs"].append({"program": task.name, "batch": task.batch, "does_not_fit": str(error)})
            _line(task.name, f"{task.batch:,}", f"does not fit: {error}")
        else:
            report["programs"].append(row)
            _line(*aot.cells(row))
            _write(FLAGS.texts and pathlib.Path(FLAGS.texts) / f"{task.name.replace(' ', '-')}.txt", text)
        _write(FLAGS.report, json.dumps(report, indent=2) + "\n")
    if FLAGS.largest_batch:
        report["largest_batch"] = _largest(config, devices, chip)
        _write(FLAGS.report, json.dumps(report, indent=2) + "\n")


def _largest(config: Config, devices: Any, chip: Any) -> int:
    from advjax import aot

    def peak(batch: int) -> int | None:
        run = aot.experiment(dataclasses.replace(config, batch_size=batch), devices)
        try:
            found = aot.compile_task(aot.tasks(run, ["step"])[0], chip)[0]["peak_bytes"]
        except aot.DoesNotFit:
            found = None
        print(f"batch {batch:,}: {'does not fit' if found is None else f'{found / 2**20:,.0f} MiB'}", flush=True)
        return found

    run = aot.experiment(config, devices)
    most = len(run.dataset.train.label)
    best = aot.largest_batch(peak, config.batch_size, len(run.devices), chip.usable, most)
    print(f"the largest batch that fits, to a sixteenth: {best:,} (of {most:,} training images)")
    return best


def _line(*values: str) -> None:
    print("| " + " | ".join(values) + " |", flush=True)


def _write(path: Any, text: str) -> None:
    if path:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(text)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("jax", "jaxlib", "libtpu", "jax-cuda12-pjrt"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _said(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv))
