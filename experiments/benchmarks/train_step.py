"""What adversarial training costs over plain training, against the arithmetic that it is.

    python -m experiments.benchmarks.train_step [--network=resnet18] [--width=16] [--batch=128] [--precision=float32]
        [--steps=1,10,20] [--statistics=running] [--methods=trades,mat] [--method_steps=10] [--repeats=3] [--results=FILE]

First table: a PGD-K adversarial training step over a natural one, ideally (2K + 3) / 3 (see
`experiments.benchmarks.passes`). Second: a step of every method over one of PGD-AT, with all networks alike, against
the ratio of their passes. Steps are those of the training loop: augmentation, optimizer and metrics included, state
donated. `--steps=` or `--methods=` with nothing behind it leaves a table out.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from advjax.errors import unknown
from experiments.benchmarks import common, steps
from experiments.benchmarks.passes import PASSES

FLAGS = flags.FLAGS
flags.DEFINE_string("network", "resnet18", "of every role")
flags.DEFINE_integer("width", 16, "of the network; 0: its own")
flags.DEFINE_integer("batch", 128, "global batch size")
flags.DEFINE_integer("size", 32, "height and width of the images")
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "of the activations")
flags.DEFINE_enum("statistics", "running", ["running", "batch"], "that the attack runs on")
flags.DEFINE_list("steps", ["1", "10", "20"], "K of the first table")
flags.DEFINE_list("methods", list(PASSES), "configs of the second table")
flags.DEFINE_integer("method_steps", 10, "K of the second table, of every method but FGSM-RS")

REFERENCE = "pgd_at"


def _step(name: str, attack_steps: int, **fields) -> steps.Step:
    sizes: dict[str, Any] = {
        flag: FLAGS[flag].value for flag in ("network", "width", "batch", "size", "precision", "statistics")
    }
    return steps.Step(steps.experiment(name, steps=attack_steps, **sizes, **fields))


def inner_loop(report: common.Report) -> None:
    """The first table."""
    counts = [int(text) for text in FLAGS.steps]
    forms = {0: _step("natural", 0)}
    forms |= {count: _step(REFERENCE, count, clean_statistics=False) for count in counts}
    times = common.measure({str(count): form for count, form in forms.items()}, FLAGS.repeats)
    for count in forms:
        row, ideal = times[str(count)], (2 * count + 3) / 3
        ratio = common.over(row, times["0"])
        report.add(
            "PGD-K adversarial training over natural training",
            K=count,
            **common.seconds(row),
            **{"over natural": ratio, "ideal": ideal, "over ideal": ratio / ideal},
        )


def methods(report: common.Report) -> None:
    """The second table."""
    names = dict.fromkeys([REFERENCE, *FLAGS.methods])
    counts = {name: 1 if name == "fgsm_rs" else FLAGS.method_steps for name in names}
    times = common.measure({name: _step(name, count) for name, count in counts.items()}, FLAGS.repeats)
    for name, count in counts.items():
        ratio = common.over(times[name], times[REFERENCE])
        arithmetic = PASSES[name](count) / PASSES[REFERENCE](FLAGS.method_steps)
        report.add(
            f"Methods over PGD-AT, K = {FLAGS.method_steps}",
            method=name,
            passes=PASSES[name](count),
            **common.seconds(times[name]),
            **{"over PGD-AT": ratio, "arithmetic": arithmetic, "over arithmetic": ratio / arithmetic},
        )


def main() -> None:
    """Prints both tables."""
    for name in FLAGS.methods:
        if name not in PASSES:
            raise unknown("method (--methods)", name, PASSES)
    width = f" of width {FLAGS.width}" if FLAGS.width else ""
    report = common.Report(
        f"{FLAGS.network}{width}, batch {FLAGS.batch}, {FLAGS.precision}, attack on {FLAGS.statistics} statistics"
    )
    if FLAGS.steps:
        inner_loop(report)
    if FLAGS.methods:
        methods(report)


if __name__ == "__main__":
    common.run(main)
