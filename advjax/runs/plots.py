"""Figures. The only module that imports matplotlib, and only when one is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any


def _axes(columns: int = 1, rows: int = 1):
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(5.2 * columns, 3.6 * rows), layout="constrained", squeeze=False)


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=150)
    plt.close(figure)


def compare(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Clean against robust accuracy, a point per method and seed, a panel per attack; one panel where there is none.

    Args:
        content: what `experiments.compare.summarise` gives.
        path: where the image goes.
    """
    methods = content["methods"]
    attacks = [attack for attack in next(iter(methods.values()))["accuracy"] if attack != "clean"] or ["clean"]
    figure, axes = _axes(len(attacks))
    for axis, attack in zip(axes[0], attacks, strict=True):
        for name, method in methods.items():
            clean, robust = method["accuracy"]["clean"], method["accuracy"].get(attack, [])
            axis.scatter([100 * c for c in clean[: len(robust)]], [100 * r for r in robust], label=name, s=24)
        axis.set(xlabel="clean accuracy, %", ylabel=f"accuracy under {attack}, %", title=attack)
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8, loc="best")
    _save(figure, path)


# Every method's own quantities share their first word with others that belong in the same panel.
_TIMING = ("step", "epoch", "seconds", "images_per_second")


def training(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str = "") -> None:
    """The course of a training: accuracies, losses, and the method's own quantities over the epochs.

    Args:
        records: of `metrics.jsonl`, see `advjax.runs.metrics.read_metrics`.
        path: where the image goes.
        title: over the figure.
    """
    names = [n for n in dict.fromkeys(n for record in records for n in record) if n not in _TIMING]
    panels: dict[str, list[str]] = {"accuracy": [], "loss": []}
    for name in names:
        panel = next((p for p in panels if name.endswith(p) or name.startswith(p)), None)
        panels.setdefault(panel or name.split("_")[-1], []).append(name)
    panels = {panel: members for panel, members in panels.items() if members}
    columns = min(3, len(panels))
    figure, axes = _axes(columns, -(-len(panels) // columns))
    flat = [axis for row in axes for axis in row]
    for axis, (panel, members) in zip(flat, panels.items(), strict=False):
        for name in members:
            points = [(record["epoch"], record[name]) for record in records if name in record]
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axis.set(xlabel="epoch", title=panel)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    _save(figure, path)
