"""The tables of docs/evidence.md, made from the collected reports alone."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# From weak to strong; of a union of norms, each norm and all together.
ATTACKS = (
    "clean",
    "pgd20",
    "pgd100",
    "apgd_ce",
    "autoattack_fast",
    "autoattack",
    "apgd_linf",
    "apgd_l2",
    "apgd_l1",
    "union",
)


def load(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Label -> its reports, by the members' folders NAME-SEED."""
    reports: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/report.json")):
        reports.setdefault(path.parent.name.rpartition("-")[0], []).append(json.loads(path.read_text(encoding="utf-8")))
    return reports


def table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row per label and checkpoint: mean [least, most] over the seeds of the first network that a report names.

    W-Robust is by the strongest attack of the table. Where the best checkpoint was the last one with every seed, there is
    one row.
    """
    shown = [
        a for a in ATTACKS if any(row["attack"] == a for each in reports.values() for r in each for row in r["results"])
    ]
    lines = [
        "| run | checkpoint | seeds | " + " | ".join(shown) + " | W-Robust |",
        "|---|---|---:|" + "---:|" * (len(shown) + 1),
    ]
    for label, of_seeds in reports.items():
        before: list[str] = []
        for checkpoint in ("best", "last"):
            rows = [_rows(report, checkpoint) for report in of_seeds]
            if not any(rows):
                continue
            cells = [_cell([each[attack]["accuracy"] for each in rows if attack in each]) for attack in shown]
            if checkpoint == "last" and cells == before:
                lines[-1] = lines[-1].replace("| best |", "| best = last |")
                continue
            before = cells
            merit = [each[shown[-1]]["w_robust"] for each in rows if shown[-1] in each]
            lines.append(f"| {label} | {checkpoint} | {len(rows)} | {' | '.join(cells)} | {_cell(merit)} |")
    return "\n".join(lines) + "\n"


def _rows(report: Mapping[str, Any], checkpoint: str) -> dict[str, Mapping[str, Any]]:
    first = next(iter(report["networks"]))
    return {r["attack"]: r for r in report["results"] if (r["network"], r["checkpoint"]) == (first, checkpoint)}


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} [{100 * min(values):.1f}, {100 * max(values):.1f}]"
