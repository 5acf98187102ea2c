"""Runs the members of a sweep that are missing, one after the other, and says what is done.

    python -m experiments.evidence --sweep=cifar10 --root=runs/evidence/cifar10            # goes on where it was
    python -m experiments.evidence --sweep=cifar10 --root=runs/evidence/cifar10 --only=pgd_at-0,trades-0    # these alone
    python -m experiments.evidence --sweep=cifar10 --root=runs/evidence/cifar10 --status   # what is done, what is not
    python -m experiments.evidence --sweep=cifar10 --root=... --collect   # copies records, fills docs/evidence.md

A member counts as done once its report is there, or lies collected under docs/evidence/SWEEP.

A member that fails is named and the others go on. Several processes may work on one root at once: each takes what no other
is at. The sweep `cifar10` reads `data/cifar10` (npz shards). Compute in the
background with `nice`; times taken meanwhile are not quoted.
"""

from __future__ import annotations

import pathlib
import shutil
import sys

from advjax import cli
from advjax.cli.sweep import say_failed
from advjax.errors import InputError
from advjax.files import write_atomically
from advjax.runs import tables
from advjax.runs.display import Display
from advjax.runs.sweep import Member, finish_all, is_done
from experiments.evidence import page
from experiments.evidence.sweeps import SWEEPS

DOCS, PAGE = pathlib.Path("docs/evidence"), pathlib.Path("docs/evidence.md")
KEPT = ("config.json", "metrics.jsonl", "report.json", "teachers.json")


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _run(argv: list[str]) -> int:
    parser = cli.Parser("experiments.evidence", __doc__)
    parser.add_argument("--sweep", required=True, choices=sorted(SWEEPS), help="which")
    parser.add_argument("--root", required=True, help="folder of its runs")
    parser.add_argument("--only", default="", help="names of members, comma separated; their teachers come along")
    parser.add_argument("--status", action="store_true", help="only say what is done")
    parser.add_argument("--collect", action="store_true", help="only copy what is done to docs, and fill the tables")
    options = parser.parse_args(argv[1:])
    root, display = pathlib.Path(options.root), Display()
    members = SWEEPS[options.sweep](options.root)
    if options.status or options.collect:
        for member in members:
            done = finished(root, member, options.sweep)
            print(f"{member.name:<24} {'done' if done else 'missing'}")
            if options.collect and (root / member.name / "report.json").exists():
                collect(root / member.name, DOCS / options.sweep / member.name)
        if options.collect:
            text = PAGE.read_text(encoding="utf-8")
            write_atomically(PAGE, tables.fill(text, options.sweep, page.table(page.load(DOCS / options.sweep))))
        return 0
    missing = [member for member in chosen(members, options.only) if not is_collected(options.sweep, member)]
    return say_failed(finish_all(missing, root, display), root, display)


def chosen(members: list[Member], names: str) -> list[Member]:
    """The members of these names, comma separated, in the sweep's order, and those that teach them; all for none.

    Raises:
        InputError: a name that no member has.
    """
    by_name = {member.name: member for member in members}
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    for name in sorted(wanted - by_name.keys()):
        raise InputError(f"--only names {name}, which is no member; allowed: {', '.join(by_name)}")
    taught_by = {pathlib.Path(t.path).name for name in wanted for t in by_name[name].config.teachers.values()}
    return [member for member in members if not wanted or member.name in wanted | taught_by]


def is_collected(sweep: str, member: Member) -> bool:
    """Whether a member's report lies among the docs."""
    return (DOCS / sweep / member.name / "report.json").exists()


def finished(root: pathlib.Path, member: Member, sweep: str) -> bool:
    """Whether a member's report is there, here or among the docs."""
    return is_collected(sweep, member) or is_done(member, root)


def collect(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies what a table is made of."""
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
