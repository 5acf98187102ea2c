"""Methods side by side under one threat model and one evaluation: a table, a figure, JSON.

    python -m experiments.compare                                  # eight methods on digits, one seed
    python -m experiments.compare --seeds=0,1,2                    # mean and spread
    python -m experiments.compare --methods=pgd_at,sglr --variant=cifar10 --root=runs/cifar10 --set=epochs=30
    python -m experiments.compare --runs=runs/pgd_at,runs/sglr     # runs that are there already

Every run lies in ROOT/METHOD-SEED and is finished by `python -m experiments.run` as far as it is not; methods with
teachers take the `natural` and `trades` runs of the same seed. Interrupted, the same command goes on.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from advjax import cli, runs
from advjax.errors import InputError
from advjax.evaluate.figures import FIGURES
from advjax.files import read_json, write_atomically, write_json
from advjax.runs import plots
from advjax.runs.display import Display
from advjax.runs.workdir import is_finished

METHODS = "natural,pgd_at,trades,dynat,sglr,mtard,bmtard,mat"
# What a teacher's role is played by, where the comparison trains such a run anyway.
TEACHERS = {"clean": "natural", "robust": "trades"}


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _run(argv: list[str]) -> None:
    parser = cli.Parser("experiments.compare", __doc__)
    parser.add_argument("--methods", default=METHODS, help="names of configs, in the table's order")
    parser.add_argument("--variant", default="digits", help="variant of the configs")
    parser.add_argument("--seeds", default="0", help="seeds, e.g. 0,1,2")
    parser.add_argument("--root", default="runs/compare", help="folder of the runs and of the table")
    parser.add_argument("--protocol", default="fast", help="evaluation.protocol of every run")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of every run's config; may be repeated")
    parser.add_argument("--runs", default="", help="folders of finished runs to compare instead")
    options = parser.parse_args(argv[1:])
    display = Display()
    if options.runs:
        reports = {name: [read_json(name, "report.json")] for name in options.runs.split(",")}
    else:
        reports = _finish_runs(options, display)
    check_rows(reports)
    check_comparable(reports)
    content = summarise(reports)
    root = pathlib.Path(options.root)
    root.mkdir(parents=True, exist_ok=True)
    page = markdown(content)
    write_atomically(root / "compare.md", page)
    write_json(root / "compare.json", content)
    plots.compare(content, root / "compare.png")
    print(page)
    display.line(f"table: {root / 'compare.md'}, figure: {root / 'compare.png'}")


def _finish_runs(options: Any, display: Display) -> dict[str, list[dict[str, Any]]]:
    """Method -> its reports, one per seed; trains and evaluates what is missing."""
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise InputError(f"--seeds must be whole numbers such as 0,1,2, they are {options.seeds!r}") from None
    methods, root = options.methods.split(","), pathlib.Path(options.root)
    configs = {(m, s): config_of(m, s, methods, root, options) for s in seeds for m in methods}
    reports: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for (method, seed), config in configs.items():
        workdir = root / f"{method}-{seed}"
        if not is_finished(workdir, config):
            display.line(f"{method}, seed {seed}")
        reports[method].append(runs.finish(config, workdir, display))
    return reports


def config_of(method: str, seed: int, methods: Sequence[str], root: pathlib.Path, options: Any) -> runs.Config:
    """What one run of the comparison is: the method's config with the comparison's protocol, settings and teachers."""
    config = cli.load_config(f"{method}:{options.variant}")
    config.seed = seed
    config.evaluation.protocol = options.protocol
    config.log.tensorboard = False
    for assignment in options.set:
        field, _, value = assignment.partition("=")
        cli.assign(config, field, value)
    for role, played_by in TEACHERS.items():
        if played_by in methods and role in config.get("teachers", {}):
            if methods.index(played_by) > methods.index(method):
                raise InputError(f"--methods: {played_by} must come before {method}, which it teaches")
            config.teachers[role].path = str(root / f"{played_by}-{seed}")
    return runs.read(config)


def check_rows(reports: dict[str, list[dict[str, Any]]]) -> None:
    """Raises `InputError` unless every report has results of a last checkpoint."""
    for name, of_seeds in reports.items():
        for report in of_seeds:
            if not any(row["checkpoint"] == "last" for row in report["results"]):
                raise InputError(f"{name} has no results of a last checkpoint: --runs takes folders of runs")


def check_comparable(reports: dict[str, list[dict[str, Any]]]) -> None:
    """Raises `InputError` unless all reports are of one threat model, attack by attack, and of the same images."""
    first_name, first = next((name, report) for name, of_seeds in reports.items() for report in of_seeds)
    for name, of_seeds in reports.items():
        for report in of_seeds:
            for what, one, other in differences(first, report):
                raise InputError(
                    f"{first_name} and {name} cannot stand in one table: {what} is {one} in the one and {other} in the "
                    "other"
                )


def differences(one: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(what, here, there) of everything that keeps two reports from being compared."""
    for field in ("norm", "eps"):
        if one[field] != other[field]:
            yield field, one[field], other[field]
    test = [report.get("data", {}).get("test_sha256", "unknown")[:12] for report in (one, other)]
    if test[0] != test[1]:
        yield "the test set", test[0], test[1]
    rows = [{row["attack"]: row for row in report["results"]} for report in (one, other)]
    if set(rows[0]) != set(rows[1]):
        yield "the set of attacks", ", ".join(sorted(rows[0])), ", ".join(sorted(rows[1]))
        return
    for attack, row in rows[0].items():
        for field in ("norm", "eps", "n", "params"):
            if row.get(field) != rows[1][attack].get(field):
                yield f"{field} of {attack}", row.get(field), rows[1][attack].get(field)


def summarise(reports: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Accuracies by method, attack and seed, of the first network that a method evaluates, at its last checkpoint."""
    first = next(iter(reports.values()))[0]["results"][0]
    methods = {}
    for name, of_seeds in reports.items():
        accuracy: dict[str, list[float]] = {}
        figures: dict[str, list[float]] = {}
        for report in of_seeds:
            network = next(iter(report["networks"]))
            for row in report["results"]:
                if (row["network"], row["checkpoint"], row["norm"] == "corruption") == (network, "last", False):
                    accuracy.setdefault(row["attack"], []).append(row["accuracy"])
            for row in report.get("figures", []):
                if (row["network"], row["checkpoint"]) == (network, "last"):
                    for figure in FIGURES:
                        if row.get(figure) is not None:
                            figures.setdefault(figure, []).append(row[figure])
        warnings = sorted({warning for report in of_seeds for warning in report["warnings"]})
        methods[name] = {"network": network, "accuracy": accuracy, "figures": figures, "warnings": warnings}
    return {"norm": first["norm"], "eps_text": first["eps_text"], "n": first["n"], "methods": methods}


def markdown(content: dict[str, Any], reference: str = "pgd_at") -> str:
    """The table; with several seeds mean [least, most], and which differences from PGD-AT lie within the spread."""
    methods = content["methods"]
    attacks = list(dict.fromkeys(attack for method in methods.values() for attack in method["accuracy"]))
    seeds = max(len(values) for method in methods.values() for values in method["accuracy"].values())
    lines = [
        f"{content['norm']} {content['eps_text']}, {content['n']} test images, last checkpoint, {seeds} seed(s)",
        "",
    ]
    lines += ["| method | " + " | ".join(attacks) + " |", "|---|" + "---:|" * len(attacks)]
    for name, method in methods.items():
        lines.append(f"| {name} | " + " | ".join(_cell(method["accuracy"].get(attack)) for attack in attacks) + " |")
    lines += _figures(methods)
    if seeds > 1 and reference in methods:
        lines += ["", f"Ranges that overlap with {reference}'s, so that the seeds do not tell the two apart:", ""]
        for name, method in methods.items():
            overlapping = [
                attack
                for attack in attacks
                if name != reference
                and _overlap(method["accuracy"].get(attack), methods[reference]["accuracy"].get(attack))
            ]
            lines += [f"- {name}: {', '.join(overlapping)}"] if overlapping else []
    lines += [f"\n> **Warning:** {name}: {text}" for name, method in methods.items() for text in method["warnings"]]
    return "\n".join(lines) + "\n"


def _figures(methods: dict[str, Any]) -> list[str]:
    """The figures of merit that were measured, beyond the accuracies that the first table has."""
    measured = [f for f in list(FIGURES)[2:] if any(f in method["figures"] for method in methods.values())]
    if not measured:
        return []
    lines = ["", "| figure of merit | " + " | ".join(FIGURES[figure] for figure in measured) + " |"]
    lines += ["|---|" + "---:|" * len(measured)]
    for name, method in methods.items():
        lines.append(f"| {name} | " + " | ".join(_cell(method["figures"].get(f)) for f in measured) + " |")
    return lines


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} [{100 * min(values):.1f}, {100 * max(values):.1f}]"


def _overlap(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    return bool(one and other and min(one) <= max(other) and min(other) <= max(one))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
