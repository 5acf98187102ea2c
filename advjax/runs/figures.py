"""Figures of sweeps and of analyses (`advjax.runs.analyses`); those of a run and a comparison are in `plots`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.runs import tables

Path = str | os.PathLike[str]
# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, RED, GREEN, GREY = "#0072b2", "#d55e00", "#00805a", "#4d5766"


def _figure(width: float, height: float) -> Any:

    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.set_axisbelow(True)


def sweep(content: Mapping[str, Any], path: Path) -> None:
    """A row per method, a column per quantity, a dot per seed and a line from the least to the greatest.

    The rows are sorted by the last attack of the protocol; the reference's mean is a vertical line.

    Args:
        content: of `tables.summarise`.
        path: where the image goes.
    """
    columns = [column for column in tables.columns(content) if column not in tables.MERITS]
    methods = sorted(content["methods"].items(), key=lambda item: np.mean(tables.values(item[1], columns[-1])))
    figure = _figure(1.6 + 2.2 * len(columns), 0.8 + 0.19 * len(methods))
    for axis, column in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True):
        for height, (_, row) in enumerate(methods):
            numbers = 100 * np.array(tables.values(row, column))
            axis.plot([numbers.min(), numbers.max()], [height, height], color=BLUE, linewidth=1.2, alpha=0.6)
            axis.plot(numbers, [height] * len(numbers), "o", color=BLUE, markersize=3.2, alpha=0.8)
        if content["reference"]:
            mean = 100 * np.mean(tables.values(content["methods"][content["reference"]], column))
            axis.axvline(mean, color=RED, linewidth=1, linestyle="--")
        axis.set_title(column, fontsize=9)
        axis.set_xlabel("accuracy, %", fontsize=8)
        axis.set_yticks(range(len(methods)), [label for label, _ in methods], fontsize=7)
        axis.set_ylim(-0.7, len(methods) - 0.3)
        axis.tick_params(axis="x", labelsize=7)
        _plain(axis)
    figure.savefig(path)


def label_noise(records: Sequence[Mapping[str, float]], path: Path) -> None:
    """Gradient norms of examples with right and with wrong labels over the epochs; beside it, what a memory takes them for.

    Args:
        records: of `analyses.label_noise`.
        path: where the image goes.
    """
    remembered = "fitted" in records[-1]
    epochs = [record["epoch"] for record in records]
    figure = _figure(9.2 if remembered else 4.8, 3.2)
    axes = figure.subplots(1, 2 if remembered else 1, squeeze=False)[0]
    for name, colour, label in (("noisy", RED, "wrong label"), ("clean", BLUE, "right label")):
        axes[0].plot(
            epochs, [record[f"{name}_norm"] for record in records], "o-", color=colour, label=label, markersize=3
        )
        if remembered:
            refined = [record[f"{name}_norm_refined"] for record in records]
            axes[0].plot(epochs, refined, "s--", color=colour, label=f"{label}, refined", markersize=3)
    axes[0].set(xlabel="epoch", title="norm of an example's gradient", ylim=(0, None))
    if remembered:
        shown = (
            ("clean", BLUE, "-", "right label: memory agrees"),
            ("fitted", RED, "-", "wrong label: memory agrees"),
            ("corrected", GREEN, "--", "wrong label: memory has the right one"),
        )
        for name, colour, line, label in shown:
            axes[1].plot(
                epochs, [100 * record[name] for record in records], line, color=colour, label=label, marker="o", ms=3
            )
        axes[1].set(xlabel="epoch", title="memory and label", ylabel="examples, %", ylim=(-3, 103))
    for axis in axes:
        _plain(axis)
        axis.legend(fontsize=7, frameon=False)
    figure.savefig(path)


def entropies(found: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Cumulative distribution of the entropies of teachers' and student's predictions, clean and under attack.

    Args:
        found: of `analyses.teacher_entropies`.
        path: where the image goes.
    """
    figure = _figure(9.2, 3.5)
    for axis, kind in zip(figure.subplots(1, 2, sharey=True), ("clean", "adversarial"), strict=True):
        for (name, each), colour in zip(found.items(), (BLUE, RED, GREEN, GREY), strict=False):
            values = np.sort(each[kind])
            share = 100 * np.arange(1, len(values) + 1) / len(values)
            axis.plot(values, share, color=colour, label=f"{name}, mean {values.mean():.2f}", linewidth=1.5)
        axis.set(xlabel="entropy of the prediction, nats", title=f"{kind} images", ylim=(0, 100))
        axis.set_xlim(left=0)
        axis.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
        _plain(axis)
        if kind == "clean":
            axis.set_ylabel("images with less, %")
    figure.savefig(path)


def transfer(names: Sequence[str], matrix: np.ndarray, path: Path) -> None:
    """Accuracy of every network (column) under examples crafted on every network (row), in percent.

    Args:
        names: of the networks.
        matrix: [K, K] shares, of `analyses.peer_transfer`.
        path: where the image goes.
    """
    figure = _figure(1.9 + 0.75 * len(names), 1.3 + 0.6 * len(names))
    axis = figure.subplots()
    axis.imshow(100 * matrix, cmap="Blues", vmin=0, vmax=100)
    for (i, j), share in np.ndenumerate(matrix):
        axis.text(
            j, i, f"{100 * share:.1f}", ha="center", va="center", fontsize=8, color="white" if share > 0.55 else "black"
        )
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set(xlabel="accuracy of", ylabel="crafted on")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.savefig(path)
