"""Pages for people: `report.html` of a run and `compare.html` of a comparison, each one file that needs nothing else.

What a page says is gathered from a run's folder, or handed over; what is missing is left out. Figures also become files in
the folder `figures`. Everything that comes from outside is escaped.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import pathlib
import platform
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from advjax.errors import InputError
from advjax.evaluate.report import harmonic_mean, markdown
from advjax.files import read_json, write_atomically, write_json
from advjax.runs import exhibits, plots, schema, wording
from advjax.runs.exhibits import Exhibits
from advjax.runs.metrics import read_metrics
from advjax.runs.plots import Panel
from advjax.runs.workdir import read_data
from advjax.training.checkpoints import best_of

NOTHING: Mapping[str, Any] = types.MappingProxyType({})
ABOUT = "about.json"
FIGURES = "figures"
LEAST_IN_BIN = 5  # predictions, for a point of the calibration's figure
MOST_CLASSES = 20  # that a figure has room for
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Material(NamedTuple):
    """What a report's page is made of; all but the report may be missing.

    Attributes:
        report: as in `report.json`.
        config: as in `config.json`.
        data: as in `data.json`.
        records: of `metrics.jsonl`.
        examples: a line per test image, as `evaluation/.../examples-PROTOCOL.jsonl` has them.
        shown: predictions and images of the network whose details the page shows.
        about: date and versions (`note_about`).
        best_step: of the best checkpoint.
    """

    report: Mapping[str, Any]
    config: Mapping[str, Any] = NOTHING
    data: Mapping[str, Any] = NOTHING
    records: Sequence[Mapping[str, Any]] = ()
    examples: Sequence[Mapping[str, Any]] = ()
    shown: Exhibits | None = None
    about: Mapping[str, Any] = NOTHING
    best_step: int | None = None


def note_about(folder: pathlib.Path) -> dict[str, Any]:
    """Notes in `evaluation/about.json` when, where and with which versions the evaluation was done."""
    now = datetime.datetime.now(datetime.UTC)
    about = {
        "finished": now.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
    }
    place = _evaluation(folder)
    place.mkdir(exist_ok=True)
    write_json(place / ABOUT, about)
    return about


def _evaluation(folder: pathlib.Path) -> pathlib.Path:
    """Where an evaluation keeps its records: a run's `evaluation`, or the folder itself."""
    return folder / "evaluation" if (folder / "config.json").exists() else folder


def detailed(report: Mapping[str, Any]) -> tuple[str, str]:
    """(network, checkpoint) that a page shows in detail: the first of either in the report, which is the best."""
    first = report["results"][0]
    return first["network"], first["checkpoint"]


def records_folder(folder: pathlib.Path, report: Mapping[str, Any]) -> pathlib.Path:
    """Where the records of the network lie that a page shows in detail."""
    inside = _evaluation(folder)
    return inside / "-".join(detailed(report)) if inside != folder else folder


def _examples(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        examples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if all(isinstance(example, dict) and {"id", "clean", "attacks"} <= example.keys() for example in examples):
            return examples
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{path} is damaged: it does not hold a group of fields for every image; remove it")


def gather(folder: pathlib.Path, report: Mapping[str, Any]) -> Material:
    """What a folder has for the page of a report."""
    place = records_folder(folder, report)

    def known(name: str, where: pathlib.Path = folder) -> dict[str, Any]:
        return read_json(where, name) if (where / name).exists() else {}

    data = read_data(folder) if (folder / "data.json").exists() else {}
    lines = place / f"examples-{report['results'][0].get('protocol')}.jsonl"
    examples = _examples(lines) if lines.exists() else []
    about = known(ABOUT, _evaluation(folder))
    if not about and (folder / "report.json").exists():  # of a run made before it was noted
        when = datetime.datetime.fromtimestamp((folder / "report.json").stat().st_mtime, datetime.UTC)
        about = {"finished": when.isoformat(timespec="seconds")}
    return Material(
        report, known("config.json"), data, read_metrics(folder / "metrics.jsonl"), examples,
        exhibits.read(place), about, best_of(folder / "checkpoints"),
    )  # fmt: skip


# --- the page of a report ---


def write(folder: pathlib.Path, report: Mapping[str, Any], files: bool = False) -> None:
    """Writes `report.md` and `report.html` into a folder.

    Args:
        folder: of the run, or of the evaluation.
        report: its report.
        files: whether the figures go into `figures/`, too, as PNG, PDF and SVG.
    """
    material = gather(folder, report)
    panels = figures(material)
    if files:
        save_figures(panels, folder / FIGURES)
    pictures = {"The course of the training": "training.png"} if (folder / "training.png").exists() else {}
    if panels["curve"]:
        plots.sheet(panels["curve"], folder / "curve.png")
        pictures["Accuracy against the radius"] = "curve.png"
    told = [(word, wording.to_text(phrase)) for word, phrase in facts(material)]
    write_atomically(folder / "report.md", markdown(report, told, pictures))
    write_atomically(folder / "report.html", report_page(material, panels))


def save_figures(panels: Mapping[str, Sequence[Panel]], folder: pathlib.Path) -> None:
    """Every panel as files of a folder."""
    if any(panels.values()):
        folder.mkdir(exist_ok=True)
    for group in panels.values():
        for panel in group:
            plots.save(panel, folder)


def figures(material: Material) -> dict[str, list[Panel]]:
    """Section -> its panels."""
    report = material.report
    best = next((record["epoch"] for record in material.records if record["step"] == material.best_step), None)
    course = plots.course(material.records, best, next(iter(report["networks"])))
    curve = _curve(report, len(material.shown.classes) if material.shown else material.data.get("num_classes"))
    return {
        "course": course,
        "curve": [curve] if curve else [],
        "predictions": [*_class_panels(material), *_calibration_panels(material.shown)],
    }


def _rows(report: Mapping[str, Any], network: str, checkpoint: str) -> list[Mapping[str, Any]]:
    return [row for row in report["results"] if (row["network"], row["checkpoint"]) == (network, checkpoint)]


def strongest(rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row that says what is robust: of several attacks at the threat model's radius that of the least accuracy, of
    equals the last; None where nothing was attacked."""
    attacked = [row for row in rows if row["attack"] != "clean" and row.get("w_robust") is not None]
    union = [row for row in attacked if row["norm"] == "union"]
    own = [row for row in attacked if (row["norm"], row["eps"]) == (report["norm"], report["eps"])]
    chosen = union or own or attacked
    return min(reversed(chosen), key=lambda row: row["accuracy"], default=None)


def _curve(report: Mapping[str, Any], classes: int | None) -> Panel | None:
    """Robust accuracy against the radius, where an attack was run at three radii or more."""
    rows = [
        row for row in _rows(report, *detailed(report)) if row["attack"] != "clean" and row["norm"] == report["norm"]
    ]
    families: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        family = row["attack"].partition("@")[0]
        families.setdefault(family, []).append((row["eps"], row["accuracy"], family))
    clean = next((row["accuracy"] for row in _rows(report, *detailed(report)) if row["attack"] == "clean"), None)
    start = [(0.0, clean)] if clean is not None else []
    points = [
        point
        for family, own in families.items()
        if len({radius for radius, *_ in own}) >= 3
        for point in [*((*each, family) for each in start), *own]
    ]
    symbol = wording.norm(report["norm"])
    return plots.against_eps(points, report["eps"], 1 / classes if classes else None, symbol) if points else None


def _class_panels(material: Material) -> list[Panel]:
    shown = material.shown
    if shown is None or not len(shown.label):
        return []
    clean = shown.clean_class == shown.label
    row = strongest(_rows(material.report, *detailed(material.report)), material.report)
    robust, attack = _survived(material, row)
    panels = []
    classes, label = shown.classes, shown.label[: len(robust)]
    if len(robust):
        present = np.unique(label)
        share = {k: (clean[: len(label)][label == k].mean(), robust[label == k].mean()) for k in present}
        kept = (
            sorted(present)
            if len(present) <= MOST_CLASSES
            else sorted(present, key=lambda k: share[k][1])[:MOST_CLASSES]
        )
        values = np.array([share[k] for k in kept])
        panel = plots.per_class([str(classes[k]) for k in kept], values[:, 0], values[:, 1], attack)
        if len(kept) < len(present):
            panel = panel._replace(
                title=f"The {len(kept)} classes of the least robust accuracy",
                note=f"Of {len(present)}; over all of them robust accuracy runs from "
                f"{_percent(min(r for _, r in share.values()))} to {_percent(max(r for _, r in share.values()))} %.",
            )
        panels.append(panel)
    attacked = shown.label[: len(shown.adv_class)]
    if len(attacked) and len(classes) <= MOST_CLASSES:
        counts = np.zeros((len(classes), len(classes)), int)
        np.add.at(counts, (attacked, shown.adv_class), 1)
        panel = plots.confusion([str(name) for name in classes], counts, wording.attack(shown.attack))
        panels.append(panel._replace(note=f"{len(attacked):,} images; the diagonal is what stays right."))
    return panels


def _survived(material: Material, row: Mapping[str, Any] | None) -> tuple[np.ndarray, str]:
    """[n] bool, the images that stand the strongest attack that is known image by image, and its name in words."""
    shown = material.shown
    assert shown is not None
    if row and material.examples and row["attack"] in material.examples[0]["attacks"]:
        told = [each["attacks"][row["attack"]] for each in material.examples if row["attack"] in each["attacks"]]
        return np.array(told[: len(shown.label)], bool), wording.attack(row["attack"])
    return shown.adv_class == shown.label[: len(shown.adv_class)], wording.attack(shown.attack)


def _confusions(shown: Exhibits | None) -> list[dict[str, Any]]:
    """What is most often taken for what, where a matrix has no room."""
    if shown is None or len(shown.classes) <= MOST_CLASSES or not len(shown.adv_class):
        return []
    label = shown.label[: len(shown.adv_class)]
    wrong = label != shown.adv_class
    pairs, counts = np.unique(np.stack([label[wrong], shown.adv_class[wrong]], 1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:12]
    return [
        {"true": str(shown.classes[pairs[i, 0]]), "taken": str(shown.classes[pairs[i, 1]]), "count": int(counts[i])}
        for i in order
    ]


def _calibration_panels(shown: Exhibits | None) -> list[Panel]:
    if shown is None or len(shown.label) < LEAST_IN_BIN * 15:
        return []
    kinds = {"on clean images": (shown.clean_confidence, shown.clean_class == shown.label)}
    if len(shown.adv_class):
        label = shown.label[: len(shown.adv_class)]
        kinds[f"under {wording.attack(shown.attack)}"] = (shown.adv_confidence, shown.adv_class == label)
    found = {name: exhibits.calibration(*each) for name, each in kinds.items()}
    bins = {
        name: [plots.Bin(*each) for each in found[name].bins if each[2] * len(confidence) >= LEAST_IN_BIN]
        for name, (confidence, _) in kinds.items()
    }
    panel = plots.reliability({name: each for name, each in bins.items() if each})
    errors = ", ".join(f"{100 * each.error:.1f} % {name}" for name, each in found.items())
    return [panel._replace(note=f"Expected calibration error (15 bins): {errors}. On the dashed line it is 0.")]


def _gallery(shown: Exhibits | None) -> dict[str, Any]:
    if shown is None or not len(shown.shown):
        return {}
    most = float(np.abs(shown.perturbation).max()) or 1.0
    factor = 0.5 / most
    factor = float(round(factor)) if factor >= 10 else float(f"{factor:.2g}")
    cards = []
    for row, image, perturbation in zip(shown.shown, shown.image, shown.perturbation, strict=True):
        grey = 0.5 + factor * perturbation
        adversarial = np.clip(image / 255 + perturbation, 0, 1)
        pixels = [image, *((255 * np.clip(each, 0, 1)).round().astype(np.uint8) for each in (grey, adversarial))]
        true = shown.label[row]
        cards.append(
            {
                "true": str(shown.classes[true]),
                "images": [plots.png(each) for each in pixels],
                "before": _verdict(shown, true, shown.clean_class[row], shown.clean_confidence[row]),
                "after": _verdict(shown, true, shown.adv_class[row], shown.adv_confidence[row]),
            }
        )
    return {"cards": cards, "factor": f"{factor:g}", "attack": wording.attack(shown.attack)}


def _verdict(shown: Exhibits, true: int, predicted: int, confidence: float) -> dict[str, Any]:
    return {
        "name": str(shown.classes[predicted]),
        "right": bool(predicted == true),
        "confidence": f"{100 * confidence:.0f}",
    }


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f}"


def _half_width(accuracy: float, n: int) -> float:
    """Half the 95 % interval of a share of n images, as Agresti and Coull have it."""
    share = (accuracy * n + 2) / (n + 4)
    return 1.96 * float(np.sqrt(share * (1 - share) / (n + 4)))


def _table(report: Mapping[str, Any], network: str, checkpoints: Sequence[str]) -> dict[str, Any]:
    rows = []
    clean = next((row["accuracy"] for row in _rows(report, network, checkpoints[0]) if row["attack"] == "clean"), 0.0)
    for row in _rows(report, network, checkpoints[0]):
        rows.append(
            {
                "attack": wording.attack(row["attack"]),
                "tier": wording.tier(row),
                "settings": wording.settings(row.get("params") or {}),
                "where": "" if row["attack"] == "clean" else _where(row),
                "accuracy": _percent(row["accuracy"]),
                "interval": _percent(_half_width(row["accuracy"], row["n"])),
                "share": row["accuracy"],
                "clean": row["attack"] == "clean",
                "w_robust": _percent(row.get("w_robust")),
                "nrr": "" if row["attack"] == "clean" else _percent(harmonic_mean(clean, row["accuracy"])),
                "n": f"{row['n']:,}",
                "passes": _large((row.get("forwards", 0) + row.get("backwards", 0)) / max(1, row["n"])),
                "seconds": duration(row.get("seconds")),
            }
        )
    names = {"best": "Best checkpoint", "last": "Last checkpoint", "given": "The given weights"}
    title = " and ".join(names.get(each, each) for each in checkpoints).replace(" and Last", ", which is the last")
    return {"title": title.replace("which is the last checkpoint", "which is the last"), "rows": rows}


def _where(row: Mapping[str, Any]) -> str:
    symbol = "" if row["norm"] == "union" else wording.norm(row["norm"]) + ", "
    return "" if row["norm"] == "union" else rf"{symbol}$\epsilon$ = {wording.literal(row['eps_text'])}"


def _large(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 4 s, 12 min, 3 h 20 min."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    minutes = round(seconds / 60)
    return f"{minutes}\u00a0min" if minutes < 60 else f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def _checkpoints(report: Mapping[str, Any], network: str) -> list[tuple[str, ...]]:
    """The checkpoints of a network, those together that have the same results."""
    groups: dict[str, list[str]] = {}
    for checkpoint in dict.fromkeys(row["checkpoint"] for row in report["results"] if row["network"] == network):
        same = [{k: v for k, v in row.items() if k != "checkpoint"} for row in _rows(report, network, checkpoint)]
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(checkpoint)
    return [tuple(group) for group in groups.values()]


def _headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the first checkpoint: of the one network, or the mean of networks that are equals."""
    network, checkpoint = detailed(report)
    clean, robust = [], []
    for name in report["networks"] if report.get("mean") else [network]:
        rows = _rows(report, name, checkpoint)
        clean += [row for row in rows if row["attack"] == "clean"]
        robust += [row for row in [strongest(rows, report)] if row]

    def tile(label: str, numbers: Sequence[float], note: str, kind: str = "") -> dict[str, str]:
        return {"label": label, "value": _percent(float(np.mean(numbers))), "kind": kind, "note": note}

    tiles = [tile("Clean accuracy", [row["accuracy"] for row in clean], f"{clean[0]['n']:,} test images", "clean")]
    if robust and len(robust) == len(clean):
        pairs = [(one["accuracy"], other["accuracy"]) for one, other in zip(clean, robust, strict=True)]
        names = " or ".join(dict.fromkeys(wording.attack(row["attack"]) for row in robust))
        tiles += [
            tile("Robust accuracy", [accuracy for _, accuracy in pairs], f"under {names}", "robust"),
            tile("W-Robust", [sum(pair) / 2 for pair in pairs], "arithmetic mean"),
            tile("NRR", [harmonic_mean(*pair) for pair in pairs], "harmonic mean"),
        ]
    bound = any(row["attack"] != "autoattack" for row in robust)
    return {"tiles": tiles, "upper_bound": bound, "checkpoint": checkpoint, "networks": len(clean)}


def _pivot(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracies of several networks side by side, a table per checkpoint."""
    if len(report["networks"]) < 2:
        return []
    tables = []
    for checkpoint in dict.fromkeys(row["checkpoint"] for row in report["results"]):
        rows = [row for row in report["results"] if row["checkpoint"] == checkpoint]
        attacks = list(dict.fromkeys(row["attack"] for row in rows))
        by_name = {(row["network"], row["attack"]): row["accuracy"] for row in rows}
        lines = []
        for attack in attacks:
            own = [by_name.get((network, attack)) for network in report["networks"]]
            known = [each for each in own if each is not None]
            mean = _percent(float(np.mean(known))) if report.get("mean") else ""
            lines.append({"attack": wording.attack(attack), "cells": [_percent(each) for each in own], "mean": mean})
        title = {"best": "Best checkpoint", "last": "Last checkpoint"}.get(checkpoint, checkpoint)
        tables.append({"title": title, "rows": lines})
    return tables


def _drop(report: Mapping[str, Any]) -> str:
    """What was lost from the best to the last checkpoint, which is robust overfitting where it is much."""
    network, _ = detailed(report)
    best, last = ({row["attack"]: row["accuracy"] for row in _rows(report, network, each)} for each in ("best", "last"))
    robust = strongest(_rows(report, network, "last"), report)
    if not robust or robust["attack"] not in best or best == last:
        return ""
    points = [100 * (last[name] - best[name]) for name in ("clean", robust["attack"])]
    return (
        f"From the best to the last checkpoint: clean {points[0]:+.1f} points, {wording.attack(robust['attack'])} "
        f"{points[1]:+.1f} points" + (", which is robust overfitting." if points[1] <= -2 else ".")
    )


def facts(material: Material) -> list[tuple[str, str]]:
    """What was done, in pairs of a word and a phrase."""
    report, config, data, about = material.report, material.config, material.data, material.about
    told: list[tuple[str, str]] = []
    name = data.get("name") or report.get("data", {}).get("name")
    if name:
        shape = " x ".join(map(str, data["image_shape"])) if "image_shape" in data else ""
        sizes = [f"{data[part]:,} {word}" for part, word in _SIZES if data.get(part)]
        classes = f"{data['num_classes']} classes" if "num_classes" in data else ""
        told.append(("Data", wording.literal("; ".join(filter(None, [name, ", ".join(sizes), classes, shape])))))
    architectures = dict.fromkeys(network["architecture"] for network in report["networks"].values())
    told.append(("Network", wording.literal(", ".join(architectures))))
    attack = config.get("attack")
    if attack:
        text = f"{wording.norm(attack['norm'])}, " + r"$\epsilon$ = " + wording.literal(attack["eps"])
        told.append(("Trained against", f"{text}; {attack['steps']} steps of {wording.literal(attack['step_size'])}"))
    if config:
        seconds = material.records[-1]["seconds"] if material.records else None
        time = f", in {duration(seconds)}" if seconds is not None else ""
        told.append(
            ("Training", f"{config['epochs']} epochs in batches of {config['batch_size']}{time}, seed {config['seed']}")
        )
    first = report["results"][0]
    how = f"protocol {first['protocol']}, {first['n']:,} test images, seed {first['seed']}, {first['dtype']}"
    told.append(("Evaluation", wording.literal(how)))
    told.append(("Devices", wording.literal(first["device"])))
    if when := about.get("finished"):
        told.append(("Date", wording.literal(str(when)[:16].replace("T", " ") + " UTC")))
    surrogates = dict.fromkeys(row["surrogate"] for row in report["results"] if row.get("surrogate"))
    if surrogates:
        told.append(("Surrogate", wording.literal(", ".join(surrogates))))
    return told


_SIZES = (("train", "training"), ("validation", "validation"), ("test", "test images"))


def _teachers(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            **{name: str(each.get(name) or "") for name in ("architecture", "source", "attack", "n")},
            "trained_by": wording.method(each["trained_by"]) if each.get("trained_by") else "",
            "clean": _percent(each.get("clean_accuracy")),
            "robust": _percent(each.get("robust_accuracy")),
            "sha256": str(each.get("params_sha256", ""))[:12],
        }
        for role, each in report.get("teachers", {}).items()
    ]


def _versions(material: Material) -> list[tuple[str, str]]:
    versions = {"advjax": material.report["version"], "configuration": material.report["config_hash"]}
    versions |= {name: value for name, value in material.about.items() if name != "finished"}
    versions |= {
        f"SHA-256 of {name}'s parameters": network.get("params_sha256", "")[:12]
        for name, network in material.report["networks"].items()
    }
    if sha256 := material.report.get("data", {}).get("test_sha256"):
        versions["SHA-256 of the test set"] = sha256[:12]
    return [(name, str(value)) for name, value in versions.items()]


def report_page(material: Material, panels: Mapping[str, Sequence[Panel]] | None = None) -> str:
    """`report.html` of a run.

    Args:
        material: what is known of it.
        panels: as `figures` gives them, where they are made already.
    """
    report = material.report
    panels = figures(material) if panels is None else panels
    networks = [
        {"name": wording.network(name), "tables": [_table(report, name, group) for group in _checkpoints(report, name)]}
        for name in report["networks"]
    ]
    network, checkpoint = detailed(report)
    settings = schema.flatten(material.config)
    return _render(
        "report.html",
        title=wording.method(report["method"]),
        subtitle=rf"{wording.norm(report['norm'])}, $\epsilon$ = {wording.literal(report['results'][0]['eps_text'])}",
        warnings=report["warnings"],
        headline=_headline(report),
        facts=facts(material),
        networks=networks,
        drop=_drop(report),
        pivot=_pivot(report),
        panels={section: [_figure(panel) for panel in group] for section, group in panels.items()},
        gallery=_gallery(material.shown),
        confusions=_confusions(material.shown),
        of_network=f"{wording.network(network)}, {checkpoint} checkpoint",
        several=len(report["networks"]) > 1,
        names=[wording.network(name) for name in report["networks"]],
        equals=bool(report.get("mean")),
        teachers=_teachers(report),
        settings=[(name, json.dumps(value)) for name, value in settings.items()],
        versions=_versions(material),
    )


# --- the page of a comparison ---


def write_comparison(
    root: pathlib.Path,
    content: Mapping[str, Any],
    folders: Mapping[str, Sequence[Any]] = NOTHING,
    name: str = "compare",
) -> None:
    """Writes `NAME.html` into a folder, and its figures into `NAME-figures/`, as PNG, PDF and SVG.

    Args:
        root: the folder.
        content: what `compare.json` holds: `norm`, `eps_text`, `n`, `methods` (label -> `network`, `accuracy` by attack and
            seed, `warnings`); further keys do no harm.
        folders: label -> folders of its runs, from which curves and settings come.
        name: of the page.
    """
    courses = {
        label: [read_metrics(pathlib.Path(each) / "metrics.jsonl") for each in own] for label, own in folders.items()
    }
    configs = {
        label: [
            schema.flatten(read_json(each, "config.json"))
            for each in own
            if (pathlib.Path(each) / "config.json").exists()
        ]
        for label, own in folders.items()
    }
    panels = comparison_figures(content, courses)
    save_figures(panels, root / f"{name}-{FIGURES}")
    write_atomically(root / f"{name}.html", comparison_page(content, courses, configs, panels))


def comparison_figures(
    content: Mapping[str, Any], courses: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
) -> dict[str, list[Panel]]:
    """Section -> its panels."""
    curves = [plots.overlaid(courses, kind) for kind in ("robust", "clean")]
    return {"scatter": plots.scatters(content), "course": [panel for panel in curves if panel is not None]}


# Settings that a difference between methods should not hide behind, in words.
_MATTERS = {
    "network.name": "network", "network.width": "width", "data.augment": "augmentation", "data.examples": "training images",
    "data.label_noise": "label noise", "data.validation": "validation images", "epochs": "epochs", "batch_size": "batch",
    "optimizer.learning_rate": "learning rate", "optimizer.weight_decay": "weight decay", "schedule.name": "schedule",
    "schedule.milestones": "milestones", "attack.norm": "norm in training", "attack.eps": "radius in training",
    "attack.steps": "steps in training", "attack.step_size": "step size in training", "precision": "precision",
    "init_from": "starting weights",
}  # fmt: skip


def _settings_of(configs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """(settings that all runs share, settings that differ: their names and a row per label)."""
    shown = {
        label: {name: _setting(name, [config.get(name) for config in own]) for name in _MATTERS}
        for label, own in configs.items()
        if own
    }
    if not shown:
        return [], {}
    same, differ = [], []
    for name, words in _MATTERS.items():
        values = {row[name] for row in shown.values()}
        if len(values) > 1:
            differ.append(name)
        elif not values <= {"", "0", _DEFAULTS.get(name)}:
            same.append((words, next(iter(values))))
    rows = [(plots.literal_label(label), [row[name] for name in differ]) for label, row in shown.items()]
    return same, {"names": [_MATTERS[name] for name in differ], "rows": rows} if differ else {}


_DEFAULTS = {"network.width": "the network's own", "data.examples": "all"}  # what a 0 means


def _setting(name: str, values: Sequence[Any]) -> str:
    """A setting of all seeds of a method, in words."""

    def words(value: Any) -> str:
        if name == "attack.norm":
            return wording.norm(str(value))
        if value == 0 and name in _DEFAULTS:
            return _DEFAULTS[name]
        if isinstance(value, list):
            return ", ".join(words(each) for each in value)
        return f"{value:.4g}" if isinstance(value, (int, float)) else wording.literal(value)

    return " or ".join(dict.fromkeys(words(value) for value in values if value not in (None, "")))


def _merits(method: Mapping[str, Any], attack: str | None) -> dict[str, list[float]]:
    if attack is None:
        return {}
    pairs = list(zip(method["accuracy"]["clean"], method["accuracy"].get(attack, []), strict=False))
    return {
        "W-Robust": [(clean + robust) / 2 for clean, robust in pairs],
        "NRR": [harmonic_mean(clean, robust) for clean, robust in pairs],
    }


def comparison_page(
    content: Mapping[str, Any],
    courses: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]] = NOTHING,
    configs: Mapping[str, Sequence[Mapping[str, Any]]] = NOTHING,
    panels: Mapping[str, Sequence[Panel]] | None = None,
) -> str:
    """`compare.html`.

    Args:
        content: see `write_comparison`.
        courses: label -> the records of every seed.
        configs: label -> the flattened config of every seed.
        panels: as `comparison_figures` gives them, where they are made already.
    """
    methods = content["methods"]
    panels = comparison_figures(content, courses) if panels is None else panels
    attacks = list(dict.fromkeys(attack for method in methods.values() for attack in method["accuracy"]))
    attacked = [attack for attack in attacks if attack != "clean"]
    last = "autoattack" if "autoattack" in attacked else attacked[-1] if attacked else None
    columns = [*attacks, *(("W-Robust", "NRR") if last else ())]
    values = {label: {**method["accuracy"], **_merits(method, last)} for label, method in methods.items()}
    best = {c: max((float(np.mean(v[c])) for v in values.values() if v.get(c)), default=None) for c in columns}
    seconds = {
        label: [records[-1]["seconds"] for records in of_seeds if records] for label, of_seeds in courses.items()
    }
    rows = [
        {
            "label": plots.literal_label(label),
            "name": label,
            "network": wording.network(method.get("network", "")),
            "key": plots.key_of(index, "")._asdict(),
            "line": plots.curve_key_of(index, "")._asdict(),
            "seeds": max(map(len, method["accuracy"].values())),
            "cells": [_spread(values[label].get(column), best[column]) for column in columns],
            "seconds": {"sort": float(np.mean(seconds[label])), "text": duration(float(np.mean(seconds[label])))}
            if seconds.get(label)
            else None,
        }
        for index, (label, method) in enumerate(methods.items())
    ]
    same, differing = _settings_of(configs)
    n, seeds = content.get("n"), max(row["seeds"] for row in rows)
    return _render(
        "compare.html",
        title="Comparison",
        subtitle=rf"{wording.norm(content['norm'])}, $\epsilon$ = {wording.literal(content['eps_text'])}",
        warnings=[
            (plots.literal_label(label), each) for label, method in methods.items() for each in method["warnings"]
        ],
        columns=[wording.attack(c) if c in attacks else c for c in columns],
        rows=rows,
        timed=any(row["seconds"] for row in rows),
        last=wording.attack(last) if last else "",
        whole=bool(last and last.startswith("autoattack") and last != "autoattack_fast"),
        n=f"{n:,}" if n else "",
        seeds=seeds,
        uneven=len({row["seeds"] for row in rows}) > 1,
        noise=f"{100 * 1.96 * (0.25 / n) ** 0.5:.1f}" if n else "",
        same=same,
        differing=differing,
        panels={section: [_figure(panel, legend=False) for panel in group] for section, group in panels.items()},
        has_figures=any(panels.values()),
    )


def _spread(numbers: Sequence[float] | None, best: float | None) -> dict[str, Any]:
    if not numbers:
        return {"sort": -1.0, "text": "", "range": "", "best": False}
    mean = float(np.mean(numbers))
    text = f"{100 * min(numbers):.1f}\u2013{100 * max(numbers):.1f}" if len(numbers) > 1 else ""
    return {"sort": mean, "text": f"{100 * mean:.1f}", "range": text, "best": mean == best}


# --- both ---


def _figure(panel: Panel, legend: bool = True) -> dict[str, Any]:
    return {
        "name": panel.name,
        "title": panel.title,
        "svg": Markup(plots.inline(panel)),
        "legend": [key._asdict() for key in panel.legend] if legend else [],
        "note": panel.note,
    }


_MARKERS = {
    "o": '<circle cx="11" cy="5" r="3.4"/>', "s": '<rect x="8" y="2" width="6" height="6"/>',
    "^": '<path d="M11 1.4 14.6 8H7.4Z"/>', "v": '<path d="M11 8.6 14.6 2H7.4Z"/>', "D": '<path d="M11 1 15 5 11 9 7 5Z"/>',
    "P": '<path d="M9.5 1.5h3v2h2v3h-2v2h-3v-2h-2v-3h2Z"/>',
    "X": '<path d="M8 3.2 9.2 2 11 3.8 12.8 2 14 3.2 12.2 5 14 6.8 12.8 8 11 6.2 9.2 8 8 6.8 9.8 5Z"/>',
    "*": '<path d="M11 .8 12 4h3.2l-2.6 2 1 3.2L11 7.3 8.4 9.2l1-3.2-2.6-2H10Z"/>',
}  # fmt: skip


def _swatch(key: Mapping[str, Any]) -> Markup:
    """A legend's sign."""
    line = {"solid": "", "dashed": ' stroke-dasharray="5 3"'}.get(key["line"])
    parts = f'<line x1="0" y1="5" x2="22" y2="5" stroke-width="2"{line}/>' if line is not None else ""
    parts += _MARKERS.get(key["marker"], "")
    style = f"stroke:var(--c{int(key['colour'])});fill:var(--c{int(key['colour'])})"
    return Markup(f'<svg class="key" viewBox="0 0 22 10" aria-hidden="true" style="{style}">{parts}</svg>')


def _render(template: str, **content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["symbols"] = lambda text: Markup(wording.to_html(text))
    environment.filters["swatch"] = _swatch
    palette = [f"--c{index}: {colour}" for index, colour in enumerate(plots.COLOURS)]
    return environment.get_template(template).render(palette="; ".join(palette), **content)
