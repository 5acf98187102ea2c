"""How time and memory of a step grow, and the time to compile it, and AutoAttack's cost.

    python -m experiments.benchmarks.growth [--parts=batch,classes,peers,devices,compile,autoattack]
        [--network=resnet18] [--width=16]
        [--batches=16,32,64,128] [--classes=10,100,1000] [--peers=1,2,3,4] [--devices=1,2,4] [--attack_steps=1,10,100]
        [--radii=0.003,0.01,0.03] [--version=standard] [--steps=3] [--repeats=3] [--results=FILE]

PGD-K adversarial training (K = `--steps`); MAT for the peers. Memory is what XLA plans per device: of the
arguments (parameters, optimizer, the whole data set, held all the time) and of the step's temporary values. On a CPU
the devices are simulated ones that share its cores, at a constant global batch. AutoAttack attacks a small random
network, whose own predictions are the labels, at several radii, so that other shares of the images withstand it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from advjax import models
from advjax.attacks import autoattack
from advjax.errors import unknown
from experiments.benchmarks import common, steps

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", [], "tables; all if absent")
flags.DEFINE_string("network", "resnet18", "of every role")
flags.DEFINE_integer("width", 16, "of the network; 0: its own")
flags.DEFINE_integer("size", 32, "height and width of the images")
flags.DEFINE_integer("steps", 3, "K")
flags.DEFINE_integer("batch", 64, "global batch size, where it does not vary")
flags.DEFINE_list("batches", ["16", "32", "64", "128"], "global batch sizes")
flags.DEFINE_list("classes", ["10", "100", "1000"], "numbers of classes")
flags.DEFINE_list("peers", ["1", "2", "3", "4"], "of MAT")
flags.DEFINE_list("devices", ["1", "2", "4"], "numbers of devices")
flags.DEFINE_list("attack_steps", ["1", "10", "100"], "K of the compilation")
flags.DEFINE_list("radii", ["0.003", "0.01", "0.03"], "l_inf radii of AutoAttack")
flags.DEFINE_string("version", "standard", "of AutoAttack")


def _step(name: str = "pgd_at", **fields) -> steps.Step:
    sizes = {flag: FLAGS[flag].value for flag in ("network", "width", "size", "steps", "batch")}
    return steps.Step(steps.experiment(name, **{**sizes, **fields}))


def _table(report: common.Report, title: str, variable: str, values: Iterable[str], make: Callable[[int], steps.Step]):
    """A row per value, all taking turns, and how three or more grow."""
    made = {int(value): make(int(value)) for value in values}
    plans = {value: step.compile().memory_analysis() for value, step in made.items()}
    times = common.measure({str(value): step for value, step in made.items()}, FLAGS.repeats)
    for value, plan in plans.items():
        memory = {
            "arguments MiB": plan.argument_size_in_bytes / 2**20,
            "temporary MiB": plan.temp_size_in_bytes / 2**20,
        }
        report.add(title, **{variable: value}, **common.seconds(times[str(value)]), **memory)
    rows = report.content["tables"][title]
    for quantity in ("median s", "temporary MiB", "arguments MiB") if len(rows) > 2 else ():
        law = common.growth([row[variable] for row in rows], [row[quantity] for row in rows])
        report.add(f"{title}: growth", quantity=quantity, **law)


def batch(report: common.Report) -> None:
    """Time and memory against the global batch."""
    _table(report, "Batch", "batch", FLAGS.batches, lambda value: _step(batch=value, clean_statistics=False))


def classes(report: common.Report) -> None:
    """Against the number of classes."""
    _table(report, "Classes", "classes", FLAGS.classes, lambda value: _step(classes=value, clean_statistics=False))


def peers(report: common.Report) -> None:
    """Against MAT's number of networks."""
    _table(report, "Peers of MAT", "peers", FLAGS.peers, lambda value: _step("mat", peers=value))


def devices(report: common.Report) -> None:
    """Against the number of devices that share one batch; simulated ones on CPU."""
    title = "Devices, global batch constant"
    if jax.default_backend() != "cpu":
        counts = [value for value in FLAGS.devices if int(value) <= jax.local_device_count()]
        _table(report, title, "devices", counts, lambda value: _step(devices=value, clean_statistics=False))
        return
    for value in map(int, FLAGS.devices):
        report.add(title, **_simulated(value))


def _simulated(count: int) -> dict[str, float]:
    """The row of so many simulated devices, whose number a process has to be started with."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "rows.json"
        own = ("parts", "batches", "results", "devices")
        kept = [argument for argument in sys.argv[1:] if argument.lstrip("-").split("=")[0] not in own]
        command = [sys.executable, "-m", "experiments.benchmarks.growth", *kept, "--parts=devices_here"]
        simulated = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        subprocess.run(
            [*command, f"--devices={count}", f"--results={file}"],
            env={**os.environ, "XLA_FLAGS": simulated},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return json.loads(file.read_text())["tables"]["Devices"][0]


def devices_here(report: common.Report) -> None:
    """The same on the devices of this process, which `_simulated` starts."""
    _table(report, "Devices", "devices", FLAGS.devices, lambda value: _step(devices=value, clean_statistics=False))


def compile_time(report: common.Report) -> None:
    """Seconds to compile against the attack's steps."""
    for value in map(int, FLAGS.attack_steps):
        made = _step(steps=value, clean_statistics=False)
        started = time.perf_counter()
        made.compile()
        report.add("Compilation", K=value, **{"compile s": time.perf_counter() - started})


def attack(report: common.Report) -> None:
    """AutoAttack's passes per image against the share that withstands it."""
    shape = (8, 8, 1)
    module = models.create("tiny_cnn", 10, width=8)
    logits_fn = models.logits_fn(module, models.init(module, jax.random.key(0), shape))
    x = jax.random.uniform(jax.random.key(1), (FLAGS.batch, *shape))
    y = jnp.argmax(logits_fn(x), -1)
    for eps in map(float, FLAGS.radii):
        started = time.perf_counter()
        result = autoattack(logits_fn, jax.random.key(2), x, y, norm="linf", eps=eps, version=FLAGS.version)
        passed = time.perf_counter() - started
        passes = result.forwards + result.backwards

        def mean(which, passes=passes):
            return float(np.mean(passes[which])) if np.any(which) else float("nan")

        report.add(
            f"AutoAttack, {FLAGS.version}",
            eps=eps,
            robust=float(result.robust.mean()),
            **{
                "passes/image": float(passes.mean()),
                "of robust ones": mean(result.robust),
                "of broken ones": mean(~result.robust),
                "s (with compilation)": passed,
            },
        )


PARTS = {
    "batch": batch,
    "classes": classes,
    "peers": peers,
    "devices": devices,
    "compile": compile_time,
    "autoattack": attack,
}


def main() -> None:
    """Prints a table per part."""
    known = {**PARTS, "devices_here": devices_here}
    for name in FLAGS.parts:
        if name not in known:
            raise unknown("part (--parts)", name, PARTS)
    report = common.Report(
        f"{FLAGS.network} of width {FLAGS.width}, PGD-{FLAGS.steps}, batch {FLAGS.batch} where it is constant"
    )
    for name in FLAGS.parts or PARTS:
        known[name](report)


if __name__ == "__main__":
    common.run(main)
