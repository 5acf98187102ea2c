"""Configs x seeds x overrides, one after the other or a share of them, and one table of what is finished.

    python -m experiments.sweep --configs=trades,pgd_at,sglr --variant=digits --seeds=0,1,2 --root=runs/sweep
    python -m experiments.sweep --configs=trades --vary=method.beta=1,3,6 --set=epochs=10 --root=runs/beta
    python -m experiments.sweep ... --shard=0/4       # one of four processes on one root: a Slurm array, one per TPU VM
    python -m experiments.sweep ... --status          # what is done, running, failed, missing
    python -m experiments.sweep ... --collect         # only the table

Every method's `digits` variant with three seeds under PGD-20 and AutoAttack's `fast` tier, the table of docs/methods.md:

    python -m experiments.sweep --configs=all --variant=digits --seeds=0,1,2 --protocol=fast --root=runs/digits

`all` is every packaged config but `quickstart`. All configs come with seed 0 first, then all with seed 1. Methods with
teachers take the `natural` and `trades` members of the same variant, seed and overrides, where the sweep has them; a
process that needs a teacher at which another is at work does something else meanwhile. A member that fails is named, the
others go on, and the exit status is 1; the same command skips what is finished and tries it again.

The table (`sweep.md`, `.tex`, `.csv`, `.json`, a figure) has mean and standard deviation over the seeds and a test of the
difference from the row `--reference`. Members of another threat model have a table of their own, `sweep-2.md`.
"""

from __future__ import annotations

import itertools
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock

from advjax import cli, runs
from advjax.errors import InputError
from advjax.files import write_atomically, write_json
from advjax.runs import figures, pages, plots, sweep, tables
from advjax.runs.display import Display
from advjax.runs.networks import create_method
from advjax.runs.sweep import Member
from advjax.runs.workdir import check_place

# What a teacher's role is played by, where the sweep trains such a run anyway.
TEACHERS = {"clean": "natural", "robust": "trades"}
MOST_COLOURS = 10  # a figure with more methods has a row for each
NOT_OF_ALL = ("quickstart",)  # B-MTARD with a shorter recipe


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 a member failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _run(argv: list[str]) -> int:
    parser = cli.Parser("experiments.sweep", __doc__)
    parser.add_argument(
        "--configs", required=True, help="NAME or NAME:VARIANT, by commas, in the table's order; or all"
    )
    parser.add_argument("--variant", default="digits", help="of the configs that name none")
    parser.add_argument("--seeds", default="0", help="e.g. 0,1,2")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of every config; may be repeated")
    parser.add_argument("--vary", action="append", default=[], help="FIELD=VALUE,VALUE: a member each; may be repeated")
    parser.add_argument("--protocol", default="fast", help="evaluation.protocol of every member")
    parser.add_argument("--root", required=True, help="folder of the members' folders")
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th member from the I-th on, I = 0..N-1")
    parser.add_argument("--status", action="store_true", help="only say what is done")
    parser.add_argument("--collect", action="store_true", help="only make the table of what is finished")
    parser.add_argument("--reference", default="pgd_at", help="row that the others are compared with")
    parser.add_argument("--out", default="", help="folder of the table; the root if absent")
    parser.add_argument("--fill", default="", help="PAGE:MARK: put the table between a page's comments MARK")
    options = parser.parse_args(argv[1:])
    check_place(options.root, "--root")
    root, display, shard = pathlib.Path(options.root), cli.display(options.quiet, options.json), _shard(options.shard)
    members = list(
        make_members(
            names_of(options.configs),
            seeds_of(options.seeds),
            root,
            variant=options.variant,
            protocol=options.protocol,
            settings=options.set,
            vary=options.vary,
        )
    )
    sweep.check_names(members)
    if options.status:
        for member in members:
            display.line(f"{member.name:<24} {sweep.status(member, root)}")
        return 0
    failed = {} if options.collect else sweep.finish_all(members, root, display, shard)
    entries, out = collect(members, root), pathlib.Path(options.out) if options.out else root
    progress = f"{len(entries)} of {len(members)} members are finished"
    if entries:
        with filelock.FileLock(root / ".tables.lock"):  # shards end at any time
            made = write(tables.groups(entries), options.reference, out, "sweep", display)
        if options.fill:
            fill(options.fill, made, progress)
    display.line(progress)
    return say_failed(failed, root, display)


def say_failed(failed: Mapping[str, str], root: pathlib.Path, display: Display) -> int:
    """Names the members that failed, and why; the exit status, 1 if there are any."""
    for name, why in failed.items():
        display.line(f"failed: {name}: {why} ({root / name / sweep.FAILED})")
    return 1 if failed else 0


def names_of(configs: str) -> list[str]:
    """Names of configs by commas; `all` stands for the packaged ones, those that teach first."""
    packaged = [file.stem for file in cli.config_files() if file.stem not in NOT_OF_ALL]
    every = [*TEACHERS.values(), *(name for name in packaged if name not in TEACHERS.values())]
    return list(dict.fromkeys(n for name in configs.split(",") for n in (every if name == "all" else [name])))


def seeds_of(seeds: str) -> list[int]:
    """Whole numbers by commas.

    Raises:
        InputError: something else.
    """
    try:
        return list(dict.fromkeys(int(seed) for seed in seeds.split(",")))
    except ValueError:
        raise InputError(f"--seeds must be whole numbers such as 0,1,2, they are {seeds!r}") from None


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise InputError(f"--shard must be I/N with I from 0 to N - 1, such as 0/4, it is {text!r}")
    return int(found[1]), int(found[2])


def make_members(
    configs: Sequence[str],
    seeds: Sequence[int],
    root: pathlib.Path,
    *,
    variant: str = "digits",
    protocol: str = "fast",
    settings: Sequence[str] = (),
    vary: Sequence[str] = (),
) -> Iterator[Member]:
    """Configs x overrides for one seed after the other, all checked.

    Args:
        configs: `NAME` or `NAME:VARIANT`, in the table's order.
        seeds: of the trainings.
        root: folder of the members' folders, where the teachers are that the sweep trains itself.
        variant: of the configs that name none.
        protocol: of every evaluation.
        settings: `FIELD=VALUE` of every config.
        vary: `FIELD=VALUE,VALUE`; several make a product.

    Raises:
        InputError: a config, field or value that is wrong.
    """
    rows = list(itertools.product(configs, itertools.product(*map(_varied, vary))))
    labels = {
        (_stem(config), config.partition(":")[2] or variant, chosen): " ".join([config, *chosen])
        for config, chosen in rows
    }
    for seed, (config, chosen) in itertools.product(seeds, rows):
        name, _, own = config.partition(":")
        made = cli.load_config(f"{name}:{own or variant}")
        made.seed = seed
        made.evaluation.protocol = protocol
        made.log.tensorboard = False
        for assignment in (*settings, *chosen):
            field, _, value = assignment.partition("=")
            cli.assign(made, field, value)
        for role, played_by in TEACHERS.items():
            if role in made.teachers and (teacher := labels.get((played_by, own or variant, chosen))):
                made.teachers[role].path = str(root / _folder(teacher, seed))
        read = runs.read(made)
        create_method(read)
        label = " ".join([config, *chosen])
        yield Member(_folder(label, seed), label, seed, read)


def _stem(config: str) -> str:
    return pathlib.Path(config.partition(":")[0]).stem


def _folder(label: str, seed: int) -> str:
    name, *chosen = label.split(" ")
    base = _stem(name) + name[len(name.partition(":")[0]) :]
    return f"{re.sub(r'[^A-Za-z0-9_.=+-]+', '-', ' '.join([base, *chosen]))}-{seed}"


def _varied(text: str) -> list[str]:
    """`FIELD=A,B` as `FIELD=A`, `FIELD=B`; commas within brackets belong to a value."""
    field, equals, values = text.partition("=")
    if not field or not equals or not values:
        raise InputError(f"--vary must be FIELD=VALUE,VALUE, such as method.beta=1,6, it is {text!r}")
    return [f"{field}={value}" for value in re.split(r",(?![^(\[]*[)\]])", values)]


def collect(members: Sequence[Member], root: pathlib.Path) -> list[tables.Entry]:
    """The members that are finished."""
    return [tables.load(root / member.name, member.label) for member in members if sweep.is_done(member, root)]


def write(
    groups: Sequence[Sequence[tables.Entry]], reference: str, out: pathlib.Path, name: str, display: Display
) -> list[dict[str, Any]]:
    """Writes a table of every group in all formats, with its figure and its page, and prints it.

    The first is called `name`, the second `name-2`.

    Returns:
        What `tables.summarise` gave of each.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = [tables.summarise(group, reference) for group in groups]
    for number, (content, group) in enumerate(zip(made, groups, strict=True), 1):
        path = out / _numbered(name, number)
        for ending, render in tables.FORMATS.items():
            write_atomically(path.with_name(f"{path.name}.{ending}"), render(content))
        write_json(path.with_name(f"{path.name}.json"), content)
        draw(content, path.with_name(f"{path.name}.png"))
        folders: dict[str, list[str]] = {}
        for entry in group:
            folders.setdefault(entry.label, []).append(entry.folder)
        pages.write_comparison(out, content, folders, path.name)
        print(tables.markdown(content))
        display.line(f"table: {path}.md (.tex, .csv, .json), figure: {path}.png, page: {path}.html")
    return made


def draw(content: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws a figure of few methods as a plane, of many as rows."""
    (figures.sweep if len(content["methods"]) > MOST_COLOURS else plots.compare)(content, path)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def fill(target: str, made: Sequence[dict[str, Any]], progress: str) -> None:
    """Puts the tables between a page's comments (`docs/methods.md:digits`), and the figures beside the page.

    Raises:
        InputError: no such page, or no such part.
    """
    path, colon, mark = target.rpartition(":")
    page = pathlib.Path(path)
    if not colon or not page.is_file():
        raise InputError(f"--fill must be PAGE:MARK, such as docs/methods.md:digits, it is {target!r}")
    lines = [f"{progress[0].upper()}{progress[1:]}.", ""]
    for number, content in enumerate(made, 1):
        figure = page.with_name(f"{page.stem}-{_numbered(mark, number)}.png")
        draw(content, figure)
        picture = f"![accuracies by method and seed]({figure.name})"
        lines += [*tables.main_table(content), *tables.verdict(content), picture, ""]
    write_atomically(page, tables.fill(page.read_text(encoding="utf-8"), mark, "\n".join(lines)))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
