"""Tables of many runs, made from their reports alone: means over seeds, and what the seeds can tell apart."""

from __future__ import annotations

import csv
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from advjax.errors import InputError
from advjax.evaluate.figures import FIGURES, harmonic_mean
from advjax.files import read_json
from advjax.runs.metrics import read_metrics
from advjax.runs.workdir import need_report

CONFIDENCE = 0.95
MERITS = {name: head for name, head in FIGURES.items() if not name.endswith("_accuracy")}
MORE = tuple(name for name in MERITS if name not in ("w_robust", "nrr"))  # what reports say of merit beside accuracies


class Entry(NamedTuple):
    """A finished run as a table takes it.

    Attributes:
        label: its row; runs of one label differ in their seeds.
        seed: of its training; None where that is not known.
        report: its report.
        seconds: its training took, without that of its teachers; None where that is not known.
        folder: of the run.
    """

    label: str
    seed: int | None
    report: Mapping[str, Any]
    seconds: float | None = None
    folder: str = ""


def load(folder: str | os.PathLike[str], label: str | None = None) -> Entry:
    """The run in a folder. Without a label it is the folder, of one named NAME-SEED after its seed the name alone.

    Raises:
        InputError: there is no report.
    """
    path = pathlib.Path(folder)
    report = need_report(path)
    seed = read_json(folder, "config.json").get("seed") if (path / "config.json").exists() else None
    records = read_metrics(path / "metrics.jsonl")
    seconds = records[-1]["seconds"] if records else None
    return Entry(label or str(folder).removesuffix(f"-{seed}"), seed, report, seconds, str(folder))


def check_rows(entries: Sequence[Entry]) -> None:
    """Raises `InputError` unless every report has results of a last checkpoint, and none of one row is there twice."""
    seen: dict[Any, str] = {}
    for entry in entries:
        for what in filter(None, (entry.folder and os.path.realpath(entry.folder), (entry.label, entry.seed))):
            if entry.seed is not None or isinstance(what, str):
                if what in seen:
                    raise InputError(
                        f"{entry.folder or entry.label} and {seen[what]} are one run, or two of the row {entry.label} with "
                        f"the seed {entry.seed}: each counts once"
                    )
                seen[what] = entry.folder or entry.label
        if not any(row["checkpoint"] == "last" for row in entry.report["results"]):
            raise InputError(f"{entry.label} has no results of a last checkpoint: only folders of runs can be compared")


def check_comparable(entries: Sequence[Entry]) -> None:
    """Raises `InputError` unless all reports are of one threat model, attack by attack, and of the same images."""
    first = entries[0]
    for entry in entries:
        for what, one, other in differences(first.report, entry.report):
            raise InputError(
                f"{first.label} and {entry.label} cannot stand in one table: {what} is {one} in the one and {other} in "
                "the other"
            )


def groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in groups that can each stand in one table, the one with the first entry first."""
    made: list[list[Entry]] = []
    for entry in entries:
        fitting = (group for group in made if not any(differences(group[0].report, entry.report)))
        if group := next(fitting, None):
            group.append(entry)
        else:
            made.append([entry])
    return made


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
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
        for field in ("norm", "eps", "n", "params", "surrogate"):
            if row.get(field) != rows[1][attack].get(field):
                yield f"{field} of {attack}", row.get(field), rows[1][attack].get(field)


def summarise(entries: Sequence[Entry], reference: str = "") -> dict[str, Any]:
    """What the tables and figures are made of: plain values, for JSON.

    Of the first network that a method evaluates, at its last checkpoint; a value per seed. W-Robust and NRR, the
    arithmetic and the harmonic mean of clean and robust accuracy, are those under the last attack of the protocol.

    Args:
        entries: runs that can be compared (`check_comparable`).
        reference: the label that the others are tested against; no tests if it is not among them.
    """
    first = entries[0].report["results"][0]
    methods: dict[str, dict[str, Any]] = {}
    for entry in entries:
        network = next(iter(entry.report["networks"]))
        row = methods.setdefault(
            entry.label, {"network": network, "seeds": [], "accuracy": {}, "seconds": [], "sha256": [], "warnings": []}
        )
        row["seeds"].append(entry.seed)
        row["seconds"].append(entry.seconds)
        row["sha256"].append(entry.report["networks"][network].get("params_sha256"))
        for result in entry.report["results"]:
            if (result["network"], result["checkpoint"]) == (network, "last") and result["norm"] != "corruption":
                row["accuracy"].setdefault(result["attack"], []).append(result["accuracy"])
        for figures in entry.report.get("figures", ()):
            if (figures["network"], figures["checkpoint"]) == (network, "last"):
                for name in MORE:
                    row.setdefault(name, []).append(figures.get(name))
        row["warnings"] = sorted({*row["warnings"], *entry.report["warnings"]})
    for name in MORE:  # a column takes a value of every run
        if any(len(row.get(name, ())) < len(row["seeds"]) or None in row[name] for row in methods.values()):
            for row in methods.values():
                row.pop(name, None)
    attacks = list(next(iter(methods.values()))["accuracy"])
    if len(attacks) > 1:
        for row in methods.values():
            pairs = list(zip(row["accuracy"]["clean"], row["accuracy"][attacks[-1]], strict=True))
            row["w_robust"] = [(clean + robust) / 2 for clean, robust in pairs]
            row["nrr"] = [harmonic_mean(clean, robust) for clean, robust in pairs]
    content = {
        **{field: first[field] for field in ("norm", "eps_text", "n")},
        "devices": sorted({str(row.get("device")) for entry in entries for row in entry.report["results"]}),
        "versions": sorted({str(entry.report.get("version")) for entry in entries}),
        "methods": methods,
        "reference": reference if reference in methods else "",
    }
    if content["reference"]:
        content["differences"] = _all_differences(content)
    return content


def columns(content: Mapping[str, Any]) -> list[str]:
    """The quantities of a table: its attacks, then `w_robust` and `nrr` where there is an attack at all."""
    first = next(iter(content["methods"].values()))
    return [*first["accuracy"], *(merit for merit in MERITS if merit in first)]


def values(row: Mapping[str, Any], column: str) -> list[float]:
    """A quantity of a row of `summarise`, by seed."""
    return row[column] if column in MERITS else row["accuracy"][column]


def difference(
    one: Mapping[Any, float] | Sequence[float], other: Mapping[Any, float] | Sequence[float]
) -> dict[str, Any] | None:
    """Whether two rows differ: a two-sided t-test, paired over the seeds that both have, else Welch's.

    Args:
        one: a row's values by seed; a sequence where the seeds are not known.
        other: those of the row that it is compared with.

    Returns:
        `test` (`paired` or `welch`), `n`, the `mean` of the difference, its 95 % interval from `low` to `high`, and `p`;
        `low`, `high` and `p` are None where the values do not vary at all, which tells nothing of other seeds. None if
        either row has fewer than two values.

    Examples:
        >>> difference({0: 0.52, 1: 0.55, 2: 0.54}, {0: 0.50, 1: 0.54, 2: 0.53})["p"]
        0.057
        >>> difference([0.52], [0.50]) is None
        True
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping) and len(shared := [s for s in one if s in other]) > 1:
        a, b = np.array([one[s] for s in shared]), np.array([other[s] for s in shared])
        kind, spread, tested = "paired", float(np.std(a - b)), stats.ttest_rel
        settings = {}
    else:
        a, b = (np.array(list(each.values()) if isinstance(each, Mapping) else each) for each in (one, other))
        if min(len(a), len(b)) < 2:
            return None
        kind, spread, tested = "welch", float(np.std(a) + np.std(b)), stats.ttest_ind
        settings = {"equal_var": False}
    made = {"test": kind, "n": min(len(a), len(b)), "mean": float(a.mean() - b.mean())}
    if spread < 1e-12:
        return {**made, "low": None, "high": None, "p": None}
    result = tested(a, b, **settings)
    low, high = result.confidence_interval(CONFIDENCE)
    return {**made, "low": float(low), "high": float(high), "p": float(result.pvalue)}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: below a level for all that hold together at that level.

    Examples:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = largest
    return adjusted


def _all_differences(content: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    methods, reference = content["methods"], content["reference"]

    def by_seed(row: Mapping[str, Any], column: str) -> Any:
        known = values(row, column)
        return dict(zip(row["seeds"], known, strict=True)) if None not in row["seeds"] else known

    made: dict[str, dict[str, dict[str, Any]]] = {label: {} for label in methods if label != reference}
    for column in columns(content):
        for label, of_label in made.items():
            if tested := difference(by_seed(methods[label], column), by_seed(methods[reference], column)):
                of_label[column] = tested
        p_values = {
            label: each[column]["p"] for label, each in made.items() if each.get(column, {}).get("p") is not None
        }
        for label, p in holm(p_values).items():
            made[label][column]["p_holm"] = p
    return {label: each for label, each in made.items() if each}


def _heads(content: Mapping[str, Any], latex: bool = False) -> list[str]:
    heads = [MERITS.get(column, column) for column in columns(content)]
    return [head.replace("_", r"\_") for head in heads] if latex else heads


def _cell(numbers: Sequence[float], plus_minus: str = "+-") -> str:
    mean = f"{100 * np.mean(numbers):.1f}"
    return mean if len(numbers) == 1 else f"{mean} {plus_minus} {100 * np.std(numbers, ddof=1):.1f}"


def _minutes(seconds: Sequence[float | None]) -> str:
    known = [each for each in seconds if each is not None]
    return f"{np.mean(known) / 60:.1f}" if known else ""


def _title(content: Mapping[str, Any]) -> str:
    return f"{content['norm']} {content['eps_text']}, {content['n']} test images, last checkpoint"


def markdown(content: Mapping[str, Any]) -> str:
    """The table, a second one of the differences from the reference, in words which of them hold, and the warnings."""
    return "\n".join(
        [*main_table(content), *_difference_table(content), *verdict(content), *_warnings(content["methods"])]
    )


def main_table(content: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: mean and standard deviation over the seeds."""
    shown = columns(content)
    return [
        f"{_title(content)}, {', '.join(content['devices'])}, advjax {', '.join(content['versions'])}; percent, mean +- "
        "standard deviation over the seeds; training in minutes, validations counted, teachers' training not",
        "",
        "| method | seeds | " + " | ".join(_heads(content)) + " | training |",
        "|---|---:|" + "---:|" * (len(shown) + 1),
        *(
            f"| {label} | {len(row['seeds'])} | {' | '.join(_cell(values(row, column)) for column in shown)} | "
            f"{_minutes(row['seconds'])} |"
            for label, row in content["methods"].items()
        ),
        "",
    ]


def _difference_table(content: Mapping[str, Any]) -> list[str]:
    made = content.get("differences")
    if not made:
        return []
    shown = columns(content)
    tests = sorted({each["test"] for row in made.values() for each in row.values()})
    how = {"paired": "paired over the seeds", "welch": "Welch's, for want of common seeds"}
    return [
        f"Difference from {content['reference']} in points, its 95 % interval, p of a two-sided t-test "
        f"({' or '.join(how[test] for test in tests)}):",
        "",
        "| method | seeds | " + " | ".join(_heads(content)) + " |",
        "|---|---:|" + "---:|" * len(shown),
        *(
            f"| {label} | {max(each['n'] for each in row.values())} | "
            + " | ".join(_difference_cell(row.get(column)) for column in shown)
            + " |"
            for label, row in made.items()
        ),
        "",
    ]


def _difference_cell(each: Mapping[str, Any] | None) -> str:
    if each is None:
        return ""
    mean = f"{100 * each['mean']:+.1f}"
    return mean if each["p"] is None else f"{mean} [{100 * each['low']:.1f}, {100 * each['high']:.1f}] {each['p']:.2g}"


def verdict(content: Mapping[str, Any]) -> list[str]:
    """Which differences hold when all of a column are looked at together."""
    made = content.get("differences")
    if not made:
        return []
    seeds = min(each["n"] for row in made.values() for each in row.values())
    width = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) / np.sqrt(seeds)
    lines = [
        f"With {seeds} seeds an interval reaches {width:.1f} standard deviations of the differences each way. These differ "
        f"from {content['reference']} beyond what seeds do (p < 0.05 after Holm's correction for the methods of a column):",
        "",
    ]
    for column, head in zip(columns(content), _heads(content), strict=True):
        holds = [label for label, row in made.items() if row.get(column, {}).get("p_holm", 1.0) < 1 - CONFIDENCE]
        lines.append(f"- {head}: {', '.join(holds) or 'none'}")
    return [*lines, ""]


def _warnings(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"> **Warning:** {label}: {text}" for label, row in methods.items() for text in row["warnings"]]


def latex(content: Mapping[str, Any]) -> str:
    """The table for a paper that uses booktabs; a dagger where a difference from the reference holds (`markdown`)."""
    shown, plus_minus, dagger = columns(content), r"\pm", r"^\dagger"

    def cell(label: str, row: Mapping[str, Any], column: str) -> str:
        holds = content.get("differences", {}).get(label, {}).get(column, {}).get("p_holm", 1.0) < 1 - CONFIDENCE
        return f"${_cell(values(row, column), plus_minus)}{dagger if holds else ''}$"

    lines = [
        f"% {_title(content)}; percent, mean and standard deviation over the seeds",
        rf"\begin{{tabular}}{{l{'r' * len(shown)}}}",
        r"\toprule",
        "method & " + " & ".join(_heads(content, latex=True)) + r" \\",
        r"\midrule",
    ]
    for label, row in content["methods"].items():
        cells = [label.replace("_", r"\_"), *(cell(label, row, column) for column in shown)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(content: Mapping[str, Any]) -> str:
    """A line per method and quantity, shares in 0..1: everything that the Markdown page says in numbers."""
    tested = ("mean", "low", "high", "p", "p_holm", "test")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = ("method", "quantity", "seeds", "mean", "sd", "reference", "difference", *tested[1:])
    writer.writerow(["norm", "eps", "n", *heads])
    for label, row in content["methods"].items():
        for column in columns(content):
            numbers, each = values(row, column), content.get("differences", {}).get(label, {}).get(column, {})
            spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else ""
            cells = [label, column, len(numbers), float(np.mean(numbers)), spread, content["reference"]]
            cells += [each.get(name, "") for name in tested]
            writer.writerow([content["norm"], content["eps_text"], content["n"], *cells])
    return file.getvalue()


FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {"md": markdown, "tex": latex, "csv": as_csv}


def fill(page: str, mark: str, content: str) -> str:
    """The page with `content` between the comments that begin and end the part `mark`.

    Raises:
        InputError: the page has no such part.
    """
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    if begin not in page or end not in page:
        raise InputError(f"the page has no part {mark}: it begins with a line {begin.strip()} and ends with {end}")
    return page[: page.index(begin) + len(begin)] + "\n" + content + "\n" + page[page.index(end) :]
