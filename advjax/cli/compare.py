"""Methods side by side under one threat model and one evaluation: a table, a figure, JSON.

    python -m experiments.compare                                  # eight methods on digits, one seed
    python -m experiments.compare --seeds=0,1,2                    # mean and spread
    python -m experiments.compare --methods=pgd_at,sglr --variant=cifar10 --root=runs/cifar10 --set=epochs=30
    python -m experiments.compare --runs=runs/pgd_at,runs/sglr     # runs that are there already
    python -m experiments.compare --runs='runs/cifar10/*'          # rows by name: NAME-0, NAME-1, ... are seeds of one

A comparison is a small sweep (`experiments.sweep` has shards and overrides): every run lies in ROOT/METHOD-SEED, methods
with teachers take the `natural` and `trades` runs of the same seed, and interrupted, the same command goes on.
"""

from __future__ import annotations

import glob
import pathlib
import sys
from typing import Any

from advjax import cli, hosts
from advjax.cli.sweep import collect, make_members, names_of, say_failed, seeds_of, write
from advjax.errors import InputError
from advjax.files import read_json
from advjax.runs import schema, sweep, tables
from advjax.runs.workdir import check_place

METHODS = "natural,pgd_at,trades,dynat,sglr,mtard,bmtard,mat"


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _run(argv: list[str]) -> int:
    parser = cli.Parser("experiments.compare", __doc__)
    parser.add_argument("--methods", default=METHODS, help="names of configs, in the table's order")
    parser.add_argument("--variant", default="digits", help="variant of the configs")
    parser.add_argument("--seeds", default="0", help="seeds, e.g. 0,1,2")
    parser.add_argument("--root", default="runs/compare", help="folder of the runs and of the table")
    parser.add_argument("--protocol", default="fast", help="evaluation.protocol of every run")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of every run's config; may be repeated")
    parser.add_argument("--runs", default="", help="folders of finished runs to compare instead, or patterns of them")
    parser.add_argument("--reference", default="pgd_at", help="row that the others are compared with")
    options = parser.parse_args(argv[1:])
    check_place(options.root, "--root")
    display, root, failed = cli.display(options.quiet, options.json), pathlib.Path(options.root), {}
    if options.runs:
        entries = [tables.load(folder) for folder in _folders(options.runs)]
        _check_seeds(entries)
    else:
        members = list(
            make_members(
                names_of(options.methods),
                seeds_of(options.seeds),
                root,
                variant=options.variant,
                protocol=options.protocol,
                settings=options.set,
            )
        )
        failed = sweep.finish_all(members, root, display)
        entries = collect(members, root)
    if entries and hosts.is_first():  # of several processes one makes the table
        tables.check_rows(entries)
        tables.check_comparable(entries)
        write([entries], options.reference, root, "compare", display)
    return say_failed(failed, root, display)


def _folders(patterns: str) -> list[str]:
    """The folders that `--runs` names; a pattern stands for those runs that are finished."""
    folders = []
    for pattern in patterns.split(","):
        if not pattern:
            raise InputError(f"--runs must be folders separated by commas, it is {patterns!r}")
        check_place(pattern, "--runs")
        found = sorted(glob.glob(f"{pattern}/report.json")) if glob.has_magic(pattern) else [f"{pattern}/report.json"]
        if not found:
            raise InputError(f"--runs: there is no finished run at {pattern}")
        folders += [str(pathlib.Path(path).parent) for path in found]
    return folders


def _check_seeds(entries: list[tables.Entry]) -> None:
    """Raises `InputError` unless runs of one row, NAME-0, NAME-1, ..., differ in their seeds alone."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in entries:
        if not (pathlib.Path(entry.folder) / "config.json").exists():
            continue
        config = {field: value for field, value in read_json(entry.folder, "config.json").items() if field != "seed"}
        folder, known = first.setdefault(entry.label, (entry.folder, config))
        if differences := schema.training_differences(known, config):
            raise InputError(
                f"{folder} and {entry.folder} would be seeds of one row, {entry.label}, and differ in more than their seed "
                f"({'; '.join(differences[:3])}): rename a folder"
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
