"""Trains and evaluates what a config describes; the same command again resumes, or returns at once when all is done.

python -m experiments.run --config=experiments/configs/pgd_at.py:digits --workdir=runs/pgd_at [--config.field=value ...]
advjax-train --config=pgd_at:digits --workdir=runs/pgd_at    # the same, anywhere, once advjax is installed
"""

from __future__ import annotations

import sys

from absl import flags

from advjax import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "folder of the run; created if need be")
flags.DEFINE_bool("dry_run", False, "print the resolved config, parameter counts and a time estimate, write nothing")
flags.DEFINE_bool("quiet", False, "print only warnings and the table of results")
flags.DEFINE_bool("json", False, "print one JSON object a line: run, epoch, attack, warning, progress, report")
flags.DEFINE_bool("list", False, "list configs, methods, networks, data sets and protocols")


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _run(argv: list[str]) -> None:
    if cli.wants_help(argv):
        return cli.print_help(__doc__)
    config = cli.parse(argv, required=("workdir",))
    if config is None:
        return cli.print_list()
    from advjax import hosts, runs
    from advjax.runs import compilation_cache, estimate
    from advjax.runs.build import load_parts

    if not FLAGS.dry_run:
        runs.finish(config, FLAGS.workdir, cli.display(FLAGS.quiet, FLAGS.json))
        return None
    hosts.join(config.hosts, config.hosts_timeout)
    with hosts.together():
        compilation_cache.enable(config.compilation_cache)
        experiment = runs.build(config, load_parts(config, rehearsal=True))
        return estimate.describe(experiment, cli.display(FLAGS.quiet, FLAGS.json))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
