"""Trains and evaluates what a config describes; the same command again resumes, or returns at once when all is done.

python -m experiments.run --config=experiments/configs/pgd_at.py:digits --workdir=runs/pgd_at [--config.field=value ...]
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from experiments import cli, compilation_cache

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "folder of the run; created if need be")
flags.DEFINE_bool("dry_run", False, "print the resolved config, parameter counts and a time estimate, write nothing")
flags.DEFINE_bool("list", False, "list configs, methods, networks, data sets and protocols")


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _run(argv: list[str]) -> None:
    config = cli.parse(argv, required=("workdir",))
    if FLAGS.list:
        return cli.print_list()

    from advjax import runs
    from advjax.training.experiment import build
    from advjax.training.log import Display

    compilation_cache.enable(config["compilation_cache"])
    workdir = pathlib.Path(FLAGS.workdir or "")
    if not FLAGS.dry_run and runs.is_finished(workdir, config):
        print(f"finished already: {workdir / 'report.md'}")
        return None
    experiment = build(config)
    display = Display()
    if FLAGS.dry_run:
        from advjax.training.estimate import describe

        return describe(experiment, display)

    from advjax import plots
    from advjax.training import teachers
    from advjax.training.log import read_metrics
    from advjax.training.loop import train

    runs.prepare_workdir(workdir, experiment)
    experiment = teachers.prepare(experiment, workdir, display)
    train(experiment, workdir, display)
    plots.training(read_metrics(workdir / "metrics.jsonl"), workdir / "training.png", config["method"]["name"])
    runs.evaluate_run(experiment, workdir, display)
    display.line(f"report: {workdir / 'report.md'}")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
