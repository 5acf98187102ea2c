"""Figures. The only module that imports matplotlib, and only when one is drawn.

A figure is a `Panel`: what draws on a pair of axes, and its legend apart, so that a page can set the legend in its own type.
Panels become files legible in a paper's column (`save`), parts of a page that follow its colours (`inline`), or one image
of many (`sheet`).
"""

from __future__ import annotations

import base64
import io
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advjax.runs import wording

# Okabe and Ito's palette, which the colour-blind can tell apart, darkened where it is thin on white. A page has the same
# colours as --c0, --c1, ..., and its own for dark surroundings.
COLOURS = ("#0072b2", "#d55e00", "#00805a", "#a8518a", "#9a7300", "#3d8fc2", "#6b5b95", "#4d5766")
INK, MUTED, GRID = "#1c2530", "#5b6673", "#d3d9e0"
_VARIABLES = {**{colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)}, INK: "var(--ink)", MUTED: "var(--muted)"}
_VARIABLES |= {GRID: "var(--line)"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
COLUMN = 3.35  # inches, of a paper with two columns
WIDE = 3.9  # of a figure that is one of two on a page
MOST_POINTS = 1000
MOST_CURVES = 8
_STYLE: Any = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 6.5, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "text.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.linewidth": 0.8, "lines.linewidth": 1.5, "legend.frameon": False, "svg.fonttype": "none", "pdf.fonttype": 42,
    "svg.hashsalt": "advjax", "legend.handlelength": 2.2,
}  # fmt: skip


class Key(NamedTuple):
    """An entry of a legend.

    Attributes:
        label: with symbols as in `advjax.runs.wording`.
        colour: index into `COLOURS`.
        line: `"solid"`, `"dashed"`, or empty for no line.
        marker: of matplotlib, or empty.
    """

    label: str
    colour: int
    line: str = "solid"
    marker: str = ""


class Panel(NamedTuple):
    """A figure.

    Attributes:
        name: of its files.
        title: what it shows, with symbols as in `advjax.runs.wording`.
        draw: draws on the axes it is given.
        legend: of what is drawn, in order.
        note: a sentence under it.
        height: in inches.
        left: in inches, room for what stands beside the vertical axis.
        bottom: in inches, room for what stands below the horizontal axis.
        width: in inches, on a page.
    """

    name: str
    title: str
    draw: Callable[[Any], None]
    legend: Sequence[Key] = ()
    note: str = ""
    height: float = 2.3
    left: float = 0.44
    bottom: float = 0.4
    width: float = COLUMN


def _figure(width: float, height: float, **options: Any) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def _style(**changes: Any) -> Any:
    import matplotlib

    return matplotlib.rc_context(_STYLE | changes)


def _handles(legend: Sequence[Key]) -> list[Any]:
    from matplotlib.lines import Line2D

    styles: Any = {"solid": "-", "dashed": "--", "": "none"}
    return [
        Line2D([], [], color=COLOURS[k.colour], linestyle=styles[k.line], marker=k.marker or None, label=k.label, ms=4)
        for k in legend
    ]


def _on(axis: Any, panel: Panel) -> None:
    """The panel with title and legend, as a file has it."""
    panel.draw(axis)
    axis.set_title(panel.title, loc="left", fontweight="bold")
    if panel.legend:
        axis.legend(handles=_handles(panel.legend), loc="upper left", bbox_to_anchor=(0, -0.17), ncols=2, borderpad=0)


def save(panel: Panel, folder: pathlib.Path, kinds: Sequence[str] = ("png", "pdf", "svg")) -> None:
    """Writes the panel as `NAME.png`, ..., as wide as a column, legend included."""
    with _style(**{"svg.fonttype": "path"}):
        rows = -(-len(panel.legend) // 2)
        figure = _figure(COLUMN, panel.height + 0.16 * rows)
        _on(figure.subplots(), panel)
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # without them the same again is the same file
        for kind in kinds:
            place = folder / f"{panel.name}.{kind}"
            figure.savefig(place, dpi=300, bbox_inches="tight", pad_inches=0.03, metadata=dates.get(kind))


def inline(panel: Panel) -> str:
    """The panel as an SVG element without title and legend, its colours those of the page around it."""
    with _style():
        figure = _figure(panel.width, panel.height)
        # Margins of one size, so that panels side by side align; measuring them would draw everything twice.
        figure.subplots_adjust(
            left=panel.left / panel.width,
            bottom=panel.bottom / panel.height,
            right=1 - 0.1 / panel.width,
            top=1 - 0.08 / panel.height,
        )
        panel.draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'(id="|xlink:href="#|href="#|url\(#)', rf"\g<1>{panel.name}-", svg)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'aria-hidden="true" focusable="false"', svg, count=1)
    svg = re.sub(r"font: (?:[\d.]+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return svg.strip()


def sheet(panels: Sequence[Panel], path: str | os.PathLike[str], title: str = "", columns: int = 3) -> None:
    """Writes all panels as one image."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    legend = 0.15 * max((len(panel.legend) + 1) // 2 for panel in panels)
    height, head = 2.5 + legend, 0.3 if title else 0.05
    with _style():
        figure = _figure(COLUMN * columns, height * rows + head)
        width, whole = figure.get_size_inches()
        for index, panel in enumerate(panels):
            row, column = divmod(index, columns)
            left, bottom = COLUMN * column + panel.left + 0.06, height * (rows - 1 - row) + panel.bottom + legend
            box = (COLUMN - panel.left - 0.2, height - panel.bottom - legend - 0.3)
            _on(figure.add_axes((left / width, bottom / whole, box[0] / width, box[1] / whole)), panel)
        figure.text(0.08 / width, 1 - 0.08 / whole, title, va="top", fontweight="bold", fontsize=10)
        figure.savefig(path, dpi=150)


def png(image: np.ndarray, least: int = 0) -> str:
    """An image, uint8 [H, W, C], as a data URI; of two channels their mean, of four the first three.

    Args:
        image: what is shown.
        least: pixels per side that it is repeated to at least, so that it stays sharp where browsers would blur it.
    """
    from PIL import Image

    image = image[..., :3] if image.shape[-1] >= 3 else image.mean(-1).astype(np.uint8)
    times = max(1, -(-least // max(image.shape[:2])))
    image = image.repeat(times, 0).repeat(times, 1)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# --- the course of a training ---


def training(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str = "") -> None:
    """The course of a training in one image: accuracies, losses, and the method's own quantities over the epochs.

    Args:
        records: of `metrics.jsonl`, see `advjax.runs.metrics.read_metrics`.
        path: where the image goes.
        title: over the figure.
    """
    if panels := course(records):
        sheet(panels, path, title)


_TIMING = ("step", "epoch", "seconds", "images_per_second", "rollbacks")
_FIRST = (wording.LOSS, wording.TERMS, "Learning rate")
_LAST = (
    "Accuracy in the training steps",
    "Clean accuracy in the training steps",
    "Robust accuracy in the training steps",
)


def course(records: Sequence[Mapping[str, Any]], best: float | None = None, first: str = "") -> list[Panel]:
    """Panels of the course of a training: validated accuracies per network, loss, learning rate, own quantities.

    Args:
        records: of `metrics.jsonl`; none where there are none.
        best: the epoch of the best checkpoint, to be marked.
        first: name of the network whose accuracies have none in the log, the first that is evaluated.
    """
    if not records:
        return []
    names = [name for name in dict.fromkeys(n for record in records for n in record) if name not in _TIMING]
    networks: dict[str, dict[tuple[str, str], str]] = {}
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if found := wording.validated(name):
            networks.setdefault(found[0], {})[found[1:]] = name
        else:
            panel, label = wording.quantity(name)
            groups.setdefault(panel, []).append((name, label))
    steps_per_epoch = records[-1]["step"] / max(1, records[-1]["epoch"])
    panels = [
        _accuracy_panel(records, network or (first if len(networks) > 1 else ""), kinds, best, steps_per_epoch)
        for network, kinds in networks.items()
    ]
    order = [p for p in _FIRST if p in groups] + [p for p in groups if p not in (*_FIRST, *_LAST)]
    for panel in (*order, *(p for p in _LAST if p in groups)):
        members = groups[panel]
        for part, start in enumerate(range(0, len(members), MOST_CURVES), 1):
            title = panel if len(members) <= MOST_CURVES else f"{panel}, part {part}"
            panels.append(_quantity_panel(records, title, members[start : start + MOST_CURVES], steps_per_epoch))
    return panels


def _points(records: Sequence[Mapping[str, Any]], name: str, steps_per_epoch: float) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, fractions of one where there are records within it, and finite values; thinned out where there are many."""
    kept = [(r["step"] / steps_per_epoch, r[name]) for r in records if isinstance(r.get(name), (int, float))]
    kept = [each for each in kept if math.isfinite(each[1])]
    kept = kept[:: max(1, len(kept) // MOST_POINTS)]
    x, y = np.array(kept, float).reshape(-1, 2).T
    return x, y


def _curve(axis: Any, x: np.ndarray, y: np.ndarray, key: Key) -> None:
    marker = key.marker or ("o" if len(x) == 1 else "")
    axis.plot(x, y, color=COLOURS[key.colour], linestyle=key.line, marker=marker or None, markersize=3)


def _epochs(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("epoch", labelpad=2)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))


_KINDS = {"clean": ("clean", 0), "robust": ("robust", 1)}
_PARTS = {"validation": ("validation", "solid"), "train": ("training images", "dashed")}


def _accuracy_panel(records, network, kinds, best, steps_per_epoch) -> Panel:
    keys = [
        (kinds[part, kind], Key(f"{_KINDS[kind][0]}, {_PARTS[part][0]}", _KINDS[kind][1], _PARTS[part][1]))
        for kind in _KINDS
        for part in _PARTS
        if (part, kind) in kinds
    ]

    def draw(axis: Any) -> None:
        for name, key in keys:
            x, y = _points(records, name, steps_per_epoch)
            _curve(axis, x, 100 * y, key)
        if best is not None:
            axis.axvline(best, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.5)))
            late = best > 0.6 * records[-1]["epoch"]
            axis.annotate(
                f"best, epoch {best:g}", (best, 2), xytext=(-3 if late else 3, 0), textcoords="offset points",
                ha="right" if late else "left", va="bottom", fontsize=7, color=MUTED,
            )  # fmt: skip
        axis.set(ylim=(0, 101), ylabel="accuracy, %")
        _epochs(axis)

    of_network = f" of {wording.network(network)}" if network else ""
    slug = re.sub(r"\W+", "-", network).strip("-")
    return Panel(f"accuracy{'-' if slug else ''}{slug}", f"Accuracy{of_network}", draw, [key for _, key in keys])


def _quantity_panel(records, title, members, steps_per_epoch) -> Panel:
    percent = "ccurac" in title or "greement" in title
    keys = []
    for index, (name, label) in enumerate(members):
        colour = _KINDS[label][1] if label in _KINDS else index % len(COLOURS)
        keys.append((name, Key(label, colour, ("solid", "dashed")[colour % 2])))

    def draw(axis: Any) -> None:
        values = []
        for name, key in keys:
            x, y = _points(records, name, steps_per_epoch)
            values.append(y)
            _curve(axis, x, 100 * y if percent else y, key)
        known = np.concatenate(values)
        if len(known) and known.min() > 0 and known.max() > 30 * known.min():
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
        elif percent:
            axis.set_ylim(0 if "isagree" not in title else None, 101 if "isagree" not in title else None)
        axis.margins(y=0.08)
        axis.set_ylabel("%" if percent else "")
        _epochs(axis)

    return Panel(re.sub(r"\W+", "-", title.lower()).strip("-"), title, draw, [key for _, key in keys])


# --- what an evaluation says ---


def against_eps(points: Sequence[tuple[float, float, str]], eps: float, chance: float | None, symbol: str) -> Panel:
    """Robust accuracy against the radius: (radius, accuracy, attack) of every row, the threat model's radius marked."""
    attacks = list(dict.fromkeys(attack for *_, attack in points))
    keys = [Key(wording.attack(attack), i % len(COLOURS), "solid", MARKERS[i % 8]) for i, attack in enumerate(attacks)]

    def draw(axis: Any) -> None:
        for attack, key in zip(attacks, keys, strict=True):
            own = sorted((radius, accuracy) for radius, accuracy, name in points if name == attack)
            x, y = np.array(own).T
            axis.plot(x, 100 * y, color=COLOURS[key.colour], marker=key.marker, markersize=3.5)
        axis.axvline(eps, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.5)))
        axis.annotate(
            "radius of the\nthreat model", (eps, 99), xytext=(3, 0), textcoords="offset points", va="top", fontsize=7,
            color=MUTED,
        )  # fmt: skip
        if chance:
            axis.axhline(100 * chance, color=MUTED, linewidth=0.9, linestyle=(0, (5, 2)))
            axis.annotate("chance", (1, 100 * chance), xycoords=("axes fraction", "data"), xytext=(0, 2), ha="right",
                          textcoords="offset points", va="bottom", fontsize=7, color=MUTED)  # fmt: skip
        axis.set(ylim=(0, 101), xlabel="radius of the attack", ylabel="accuracy, %")
        axis.set_xlim(left=0)

    return Panel("against-radius", f"Accuracy against the radius, {symbol}", draw, keys)


def per_class(names: Sequence[str], clean: np.ndarray, robust: np.ndarray, attack: str) -> Panel:
    """Clean and robust accuracy of every class, a line between the two.

    Args:
        names: of the classes that are shown.
        clean: their clean accuracies in 0..1.
        robust: those under the attack.
        attack: its name, in words.
    """
    keys = [Key("clean", 0, "", "o"), Key(attack, 1, "", "s")]

    def draw(axis: Any) -> None:
        rows = np.arange(len(names))
        axis.hlines(rows, 100 * robust, 100 * clean, color=GRID, linewidth=3)
        for values, key in ((clean, keys[0]), (robust, keys[1])):
            axis.plot(100 * values, rows, key.marker, color=COLOURS[key.colour], markersize=4.5)
        axis.set(xlim=(-2, 102), ylim=(len(names) - 0.5, -0.5), xlabel="accuracy, %")
        axis.set_yticks(rows, [wording.literal(_short(name)) for name in names])
        axis.grid(False, axis="y")
        axis.tick_params(axis="y", length=0)

    left = 0.15 + 0.065 * max(len(_short(name)) for name in names)
    return Panel("per-class", "Accuracy by class", draw, keys, height=0.7 + 0.18 * len(names), left=left)


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def confusion(names: Sequence[str], counts: np.ndarray, attack: str) -> Panel:
    """What the classes are taken for: counts [K, K], a row per true class, shown in percent of the row."""
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    short = [_short(name, 10) for name in names]
    longest, k = max(map(len, short)), len(names)

    def draw(axis: Any) -> None:
        from matplotlib.patches import Rectangle

        for (true, taken), share in np.ndenumerate(shares):
            colour = COLOURS[0] if true == taken else COLOURS[1]
            if share:
                axis.add_patch(Rectangle((taken - 0.5, true - 0.5), 1, 1, color=colour, alpha=0.08 + 0.5 * share, lw=0))
                axis.text(taken, true, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5 if k <= 10 else 5)
        axis.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), xlabel="taken for", ylabel="true class")
        labels = [wording.literal(name) for name in short]
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 2 else {}
        axis.set_xticks(range(k), labels, **turn)
        axis.set_yticks(range(k), labels)
        axis.tick_params(length=0)
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)

    extra = 0.055 * longest if longest > 2 else 0.0
    title = f"Confusion under {attack}, % of the class"
    return Panel("confusion", title, draw, height=2.9 + extra, left=0.36 + 1.1 * extra, bottom=0.4 + 0.8 * extra)


class Bin(NamedTuple):
    """Predictions of about one confidence: their mean confidence, accuracy, and share of all."""

    confidence: float
    accuracy: float
    share: float


def reliability(curves: Mapping[str, Sequence[Bin]]) -> Panel:
    """Accuracy against confidence, a curve per kind of images; the larger a point, the more predictions it stands for."""
    keys = [Key(label, i, "solid", MARKERS[i]) for i, label in enumerate(curves)]

    def draw(axis: Any) -> None:
        axis.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=(0, (5, 2)))
        for bins, key in zip(curves.values(), keys, strict=True):
            x, y, share = np.array(bins).T
            axis.plot(100 * x, 100 * y, color=COLOURS[key.colour], linewidth=1, alpha=0.6)
            axis.scatter(
                100 * x, 100 * y, s=10 + 90 * share, color=COLOURS[key.colour], marker=key.marker, alpha=0.8, lw=0
            )
        axis.set(xlim=(0, 103), ylim=(0, 103), xlabel="confidence, %", ylabel="accuracy, %")

    return Panel("calibration", "Accuracy against confidence", draw, keys, height=2.4)


# --- comparisons ---


def compare(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Clean against robust accuracy in one image, a point per method and seed, a panel per attack.

    Args:
        content: what `experiments.compare` summarises.
        path: where the image goes.
    """
    sheet(scatters(content), path)


def scatters(content: Mapping[str, Any]) -> list[Panel]:
    """Clean against robust accuracy, a panel per attack; clean accuracy alone where there is none."""
    methods = content["methods"]
    attacks = [attack for attack in next(iter(methods.values()))["accuracy"] if attack != "clean"] or ["clean"]
    return [_scatter(methods, attack) for attack in attacks]


def key_of(index: int, label: str) -> Key:
    """A method's entry in the legends of a comparison: colour and marker, so that sixty-four can be told apart."""
    return Key(label, index % len(COLOURS), "", MARKERS[(index + index // len(COLOURS)) % len(MARKERS)])


def curve_key_of(index: int, label: str) -> Key:
    """The same with a line."""
    return key_of(index, label)._replace(line=("solid", "dashed")[index // len(COLOURS) % 2])


def _scatter(methods: Mapping[str, Mapping[str, Any]], attack: str) -> Panel:
    keys = [key_of(index, literal_label(name)) for index, name in enumerate(methods)]

    def draw(axis: Any) -> None:
        points = []
        for method, key in zip(methods.values(), keys, strict=True):
            robust = np.array(method["accuracy"].get(attack, []), float) * 100
            clean = np.array(method["accuracy"]["clean"], float)[: len(robust)] * 100
            if len(robust):
                points.append((clean, robust, key))
        near = _near([float(robust.mean()) for _, robust, _ in points])
        _limits(axis, [point[:2] for point, inside in zip(points, near, strict=True) if inside])
        _lines_of_w_robust(axis, attack != "clean")
        for (clean, robust, key), inside in zip(points, near, strict=True):
            style = {"color": COLOURS[key.colour], "marker": key.marker, "linestyle": "none", "markeredgewidth": 0}
            if not inside:
                _at_the_edge(axis, clean.mean(), robust.mean(), style)
                continue
            if len(robust) > 1:
                axis.plot(clean, robust, markersize=3, alpha=0.45, **style)
            axis.plot(clean.mean(), robust.mean(), markersize=6, **style)
        axis.set(xlabel="clean accuracy, %", ylabel="robust accuracy, %" if attack != "clean" else "clean accuracy, %")

    name = f"scatter-{re.sub(r'[^a-z0-9]+', '-', attack)}"
    return Panel(name, wording.attack(attack), draw, keys, height=3.3, width=WIDE)


def _near(values: Sequence[float]) -> list[bool]:
    """Which values are not so far below the others that these could not be told apart in one figure."""
    middle = float(np.median(values))
    return [value >= 0.6 * middle for value in values]


def _at_the_edge(axis: Any, x: float, y: float, style: Mapping[str, Any]) -> None:
    """A point far below the axes, as a mark at their lower edge with its value."""
    (left, right), bottom = axis.get_xlim(), axis.get_ylim()[0]
    place = min(max(x, left + 0.03 * (right - left)), right - 0.1 * (right - left))
    axis.plot(place, bottom, markersize=6, clip_on=False, zorder=5, **style)
    axis.annotate(f"{y:.1f} \N{DOWNWARDS ARROW}", (place, bottom), xytext=(-6, 3), textcoords="offset points", fontsize=6.5,
                  ha="right", color=MUTED)  # fmt: skip


def literal_label(name: str) -> str:
    """A row of a comparison as a legend has it: a method by its name, a folder by its last part."""
    folder = pathlib.PurePath(name).name or name
    known = re.fullmatch(r"[a-z0-9_]{2,30}", folder)
    return wording.method(folder) if known else wording.literal(folder)


def _limits(axis: Any, seen: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    for which, values in zip("xy", zip(*seen, strict=True), strict=False):
        flat = np.concatenate(values)
        room = max(2.0, 0.12 * (flat.max() - flat.min()))
        axis.set(**{f"{which}lim": (max(-2, flat.min() - room), min(102, flat.max() + room))})


def _lines_of_w_robust(axis: Any, shown: bool) -> None:
    """Lines of equal W-Robust, the mean of clean and robust accuracy, labelled where they enter the axes."""
    if not shown:
        return
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    low, high = (left + bottom) / 2, (right + top) / 2
    step = next((s for s in (1, 2, 5, 10, 20) if (high - low) / s <= 6), 25)
    for value in np.arange(math.ceil(low / step) * step, high, step):
        axis.plot([left, right], [2 * value - left, 2 * value - right], color=GRID, linewidth=0.9, zorder=0.5)
        enters_left = 2 * value - left < top
        x, y = (left, 2 * value - left) if enters_left else (2 * value - top, top)
        if bottom + 0.08 * (top - bottom) < y and x < right - 0.08 * (right - left):
            place = (
                {"xytext": (3, 1), "ha": "left", "va": "bottom"}
                if enters_left
                else {"xytext": (-4, -1), "ha": "right", "va": "top"}
            )
            axis.annotate(f"{value:g}", (x, y), textcoords="offset points", fontsize=6.5, color=MUTED, **place)
    axis.grid(False)
    axis.set(xlim=(left, right), ylim=(bottom, top))


def overlaid(courses: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], kind: str) -> Panel | None:
    """Validation accuracy over the epochs, a curve per method: the mean of its seeds, a band from the least to the most.

    Args:
        courses: label -> the records of every seed.
        kind: `"clean"` or `"robust"`.

    Returns:
        None where no run was validated.
    """
    name, keys, curves = f"validation_{kind}_accuracy", [], []
    for index, (label, of_seeds) in enumerate(courses.items()):
        own = [
            _points(records, name, records[-1]["step"] / max(1, records[-1]["epoch"]))
            for records in of_seeds
            if records
        ]
        own = [(x, y) for x, y in own if len(x)]
        if own:
            keys.append(curve_key_of(index, literal_label(label)))
            curves.append(own)
    if not curves:
        return None

    def draw(axis: Any) -> None:
        for own, key in zip(curves, keys, strict=True):
            x = own[0][0]
            y = 100 * np.stack([np.interp(x, *each) for each in own])
            if len(own) > 1:
                axis.fill_between(x, y.min(0), y.max(0), color=COLOURS[key.colour], alpha=0.15, linewidth=0)
            axis.plot(x, y.mean(0), color=COLOURS[key.colour], linestyle=key.line, marker=key.marker, markersize=3.5,
                      markevery=max(1, len(x) // 5), linewidth=1.2)  # fmt: skip
        late = [100 * y[x > 0.12 * x[-1]].min() for own in curves for x, y in own[:1]]
        near = _near([100 * float(own[0][1][-1]) for own in curves])
        lowest = min(value for value, inside in zip(late, near, strict=True) if inside)
        axis.set(ylim=(max(0, lowest - 3), None), ylabel="accuracy, %")
        _epochs(axis)

    title = f"{kind.capitalize()} accuracy on validation images"
    return Panel(f"course-{kind}", title, draw, keys, height=3.3, width=WIDE)
