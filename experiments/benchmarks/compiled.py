"""Training steps of all configs compiled for a TPU's slice that is not there: the compiler's word, no measurement.

    python -m experiments.benchmarks.compiled --out=FOLDER [--target=v5e:2x2] [--configs=trades,mart,trades:wrn_34_10]

`experiments.compile_for` once for every config's `cifar10` in bfloat16, at low effort, each in a process of its own; what
FOLDER has already is not compiled again, so that an interrupted run goes on. NAME:NETWORK takes another network: a Wide
ResNet at batch 512, a ViT on images of 224 pixels. Needs libtpu (the extra `tpu-aot`).
"""

import json
import pathlib
import subprocess
import sys

from absl import flags

from advjax import cli
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "folder of the reports", required=True)
flags.DEFINE_string("target", "v5e:2x2", "as experiments.compile_for has it")
flags.DEFINE_list("configs", [], "NAME or NAME:NETWORK; empty: all, and PGD-AT and TRADES on two larger networks")

LARGER = tuple(f"{name}:{network}" for network in ("wrn_34_10", "vit_b_16") for name in ("pgd_at", "trades"))
OPTIONS = {
    "wrn_34_10": ("--batch_size=512",),
    "vit_b_16": ("--config.data.image_size=224", "--config.data.examples=10000"),
}
COLUMNS = (
    "config", "network", "batch", "peak, MiB", "GFLOP, counted", "GFLOP, compiled", "GB moved", "arithmetic, ms",
    "traffic, ms", "collectives (in the attack)", "convolutions", "copies in the attack, MiB", "compile, s",
)  # fmt: skip


def compile_one(entry: str, folder: pathlib.Path) -> None:
    """Compiles one entry's step into its folder, unless that is done."""
    name, _, network = entry.partition(":")
    if (folder / "report.json").exists():
        return
    chosen = (f"--config.network.name={network}", *OPTIONS.get(network, ())) if network else ()
    flags = (f"--config={name}:cifar10", "--config.precision=bfloat16", *chosen, f"--target={FLAGS.target}")
    command = [sys.executable, "-m", "experiments.compile_for", *flags, "--programs=step"]
    command += [f"--report={folder}/report.json", f"--texts={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{entry}: {done.stderr.strip().splitlines()[-1]}", flush=True)


def row(entry: str, report: dict) -> tuple[str, ...]:
    """A row of the table, of one chip and one step."""
    (step,) = report["programs"]
    place = (entry.partition(":")[0], report["config"]["network"], f"{step['batch']:,}")
    if "does_not_fit" in step:
        return (*place, f"does not fit: {step['does_not_fit']}", *[""] * (len(COLUMNS) - 4))
    inside = sum(step["collectives_in_loops"].values())
    copies = sum(loop["trips"] * loop["copies"][1] for loop in step["loops"])
    return (
        *place,
        f"{step['peak_bytes'] / 2**20:,.0f}",
        f"{step['flops_counted'] / 1e9:,.0f}",
        f"{step['flops'] / 1e9:,.0f}",
        f"{step['bytes'] / 1e9:.3g}",
        f"{step['arithmetic_seconds'] * 1e3:.3g}",
        f"{step['traffic_seconds'] * 1e3:.3g}",
        f"{sum(step['collectives'].values())} ({inside})",
        ", ".join(f"{count} {dtype}" for dtype, count in step["convolutions"].items()) or "none",
        f"{copies / 2**20:.3g}",
        f"{step['compile_seconds']:.0f}",
    )


def main() -> None:
    """Compiles what is missing and prints the table of what is there."""
    entries = FLAGS.configs or [*(path.stem for path in cli.config_files() if path.stem != "quickstart"), *LARGER]
    out = pathlib.Path(FLAGS.out)
    for entry in entries:
        compile_one(entry, out / entry.replace(":", "-"))
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for entry in entries:
        report = out / entry.replace(":", "-") / "report.json"
        if report.exists():
            print("| " + " | ".join(row(entry, json.loads(report.read_text()))) + " |")


if __name__ == "__main__":
    common.run(main)
