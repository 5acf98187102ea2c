"""The report of a run: one JSON object for programs, one page of Markdown for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from advjax.errors import InputError, shown
from advjax.evaluate.attack_dataset import Outcome
from advjax.evaluate.corruptions import SEVERITIES
from advjax.evaluate.figures import FIGURES, calibration_error, figures_of_merit, harmonic_mean
from advjax.evaluate.protocols import Attack
from advjax.numbers import text
from advjax.version import __version__


def params_sha256(variables: Mapping[str, Any]) -> str:
    """SHA-256 of a network's parameters and statistics.

    Over the leaves sorted by path: path (`params/conv/kernel`), shape, and the values as float32 little-endian.
    """
    flat = jax.tree_util.tree_flatten_with_path(dict(variables))[0]
    leaves = {"/".join(str(part.key) for part in path): np.asarray(leaf) for path, leaf in flat}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        digest.update(f"{path}{list(leaves[path].shape)}".encode())
        digest.update(np.ascontiguousarray(leaves[path], "<f4").tobytes())
    return digest.hexdigest()


def result_row(
    attack: Attack,
    outcome: Outcome,
    clean_accuracy: float,
    *,
    network: str,
    checkpoint: str,
    protocol: str,
    seed: int,
    dtype: str,
    device: str,
    surrogate: str | None = None,
) -> dict[str, Any]:
    """One result as the report holds it; `ece` is the calibration error with 15 bins, None for attacks whose
    confidences are not known. A row of corrupted images has `by_severity` besides, and no means with the clean accuracy."""
    whole = attack.name == "clean" or attack.images is not None
    confidence = outcome.confidence
    return {
        "network": network,
        "checkpoint": checkpoint,
        "protocol": protocol,
        "attack": attack.name,
        "norm": attack.norm,
        "eps": attack.radius,
        "eps_text": text(attack.eps),
        "params": dict(attack.params),
        "surrogate": surrogate if attack.transfer else None,
        "n": len(outcome.robust),
        "accuracy": outcome.accuracy,
        "w_robust": None if whole else 0.5 * clean_accuracy + 0.5 * outcome.accuracy,
        "nrr": None if whole else harmonic_mean(clean_accuracy, outcome.accuracy),
        "ece": None if confidence is None else calibration_error(confidence, outcome.robust),
        **({"by_severity": outcome.robust.reshape(SEVERITIES, -1).mean(1).tolist()} if attack.images else {}),
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "seconds": round(outcome.seconds, 3),
        "forwards": int(outcome.forwards.sum()),
        "backwards": int(outcome.backwards.sum()),
        "flags": list(outcome.flags) + list(outcome.notes),
    }


# (stronger, weaker): the accuracy under the first may not exceed that under the second
_ORDERED = (("pgd20", "pgd10"), ("pgd50", "pgd20"), ("pgd100", "pgd20"), ("pgd20", "fgsm"))
_BLACK_BOX = ("square", "square100", "transfer_pgd20_trades", "transfer_cw30")


def warnings(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sanity checks that the results violate, each as a line: what cannot be true of an honest, strong evaluation.

    Robust accuracy above clean accuracy; a stronger attack that does less than a weaker one; a black-box attack that
    does more than the white-box ones by over 0.2 points; accuracy that a large radius leaves; and every attack's own
    flags.
    """
    found = []
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["network"], row["checkpoint"]), {})[row["attack"]] = row
    for (network, checkpoint), rows in groups.items():
        accuracy = {name: row["accuracy"] for name, row in rows.items() if row["norm"] != "corruption"}
        where = f"{network} ({checkpoint})"
        pairs = [(attack, "clean") for attack in accuracy if attack != "clean"] + list(_ORDERED)
        for whole in ("autoattack", "autoattack_fast"):
            own = rows.get(whole, {})
            pairs += [
                (whole, name)
                for name, row in rows.items()
                if name not in (whole, "clean") and row["norm"] == own.get("norm") and row["eps"] == own.get("eps")
                and not name.startswith("autoattack")
            ]  # fmt: skip
        for stronger, weaker in pairs:
            if stronger in accuracy and weaker in accuracy and accuracy[stronger] > accuracy[weaker] + 1e-9:
                found.append(
                    f"{where}: accuracy under {stronger} ({accuracy[stronger]:.2%}) is above that under {weaker} "
                    f"({accuracy[weaker]:.2%}); a stronger attack should not do worse"
                )
        white = [
            a for n, a in accuracy.items() if n not in ("clean", *_BLACK_BOX) and not rows[n]["params"].get("all_of")
        ]
        for name in _BLACK_BOX:
            if white and name in accuracy and accuracy[name] < min(white) - 0.002:
                found.append(
                    f"{where}: the black-box attack {name} is stronger than every white-box one: masked gradients"
                )
        curve = [row for name, row in rows.items() if "@" in name]
        if curve and (largest := max(curve, key=lambda row: row["eps"]))["accuracy"] > 0:
            found.append(
                f"{where}: accuracy is still {largest['accuracy']:.2%} at eps {largest['eps']:g}; it should reach 0"
            )
        for name, row in rows.items():
            found += [f"{where}, {name}: {flag}" for flag in row["flags"]]
    return found


def mean_over_networks(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What several networks of one method reach on average: a row per checkpoint and attack."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["checkpoint"], row["attack"]), []).append(row)

    def mean(rows, field):
        return None if rows[0][field] is None else float(np.mean([row[field] for row in rows]))

    return [
        {"checkpoint": checkpoint, "attack": attack, "networks": len(rows)}
        | {field: mean(rows, field) for field in ("accuracy", "w_robust")}
        for (checkpoint, attack), rows in groups.items()
    ]


def assemble(
    method: str,
    config_hash: str,
    norm: str,
    eps: float,
    networks: Mapping[str, Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    *,
    data: Mapping[str, Any] | None = None,
    teachers: Mapping[str, Mapping[str, Any]] | None = None,
    doubts: Sequence[str] = (),
    peers: bool = False,
) -> dict[str, Any]:
    """A report, as `report.json` holds it.

    Args:
        method: name of what trained the networks.
        config_hash: names the settings.
        norm: of the threat model.
        eps: its radius.
        networks: name -> architecture and `params_sha256`.
        results: rows, see `result_row`.
        data: name and hash of the test set.
        teachers: what is known of the teachers, by role.
        doubts: further warnings.
        peers: whether the networks are equals, of which the mean is given, too.
    """
    return {
        "method": method,
        "config_hash": config_hash,
        "version": __version__,
        "eps": eps,
        "norm": norm,
        **({"data": data} if data else {}),
        "networks": networks,
        **({"teachers": teachers} if teachers else {}),
        "results": list(results),
        "figures": figures_of_merit(results, norm, eps),
        **({"mean": mean_over_networks(results)} if peers else {}),
        "warnings": warnings(results) + list(doubts),
    }


_NUMBER, _NONE = (int, float), type(None)
_OF_REPORT = {"method": str, "eps": _NUMBER, "norm": str, "networks": dict, "results": list, "warnings": list}
_OF_REPORT |= {"config_hash": str, "version": str, "figures": list}
_OF_NETWORK = {"architecture": str, "params_sha256": str}
_OF_RESULT = {
    **dict.fromkeys(("network", "checkpoint", "protocol", "attack", "norm", "eps_text", "dtype", "device"), str),
    **dict.fromkeys(("eps", "accuracy", "seconds"), _NUMBER),
    **dict.fromkeys(("w_robust", "nrr"), (*_NUMBER, _NONE)),
    **dict.fromkeys(("n", "forwards", "backwards", "seed"), int),
    "surrogate": (str, _NONE),
    "flags": list,
    "params": dict,
}
_OF_FIGURES = {
    **dict.fromkeys(("network", "checkpoint"), str),
    **dict.fromkeys(("attack", "gap_attack", "ece_attack"), (str, _NONE)),
    **dict.fromkeys(FIGURES, (*_NUMBER, _NONE)),
    "corruptions": int,
}
_OF_MEAN = {"checkpoint": str, "attack": str, "networks": int, "accuracy": _NUMBER, "w_robust": (*_NUMBER, _NONE)}
# Reports of other versions may lack some of the others.
_NEVER_ABSENT = ("networks", "results", "warnings", "network", "checkpoint", "attack", "accuracy")


def check_report(report: Mapping[str, Any], where: str, whole: bool = False) -> None:
    """Raises `InputError` unless a report that was read from a file says what everything that shows it asks of it.

    Args:
        report: what was read.
        where: what the message begins with.
        whole: whether it is to have all fields of this version, as its pages want it.
    """

    def check(holder: Any, kinds: Mapping[str, Any], inside: str) -> None:
        if not isinstance(holder, Mapping):
            raise InputError(f"{where} is damaged: {inside or 'it'} is {shown(holder)}, not a group of fields")
        for name, kind in kinds.items():
            place = f"{inside}{'.' * bool(inside)}{name}"
            if name in holder:
                value = holder[name]
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise InputError(f"{where} is damaged: {place} is {shown(value)}")
            elif name in _NEVER_ABSENT:
                raise InputError(f"{where} is damaged: it lacks {place}")
            elif whole:
                raise InputError(f"{where} has no {place}, which a page shows; allowed: a report of this version")

    check(report, _OF_REPORT, "")
    if not report["networks"]:
        raise InputError(f"{where} is damaged: networks is empty")
    if not report["results"] and whole:
        raise InputError(f"{where} is damaged: results is empty")
    if "data" in report:
        check(report["data"], {"name": str, "test_sha256": str}, "data")
    for name, network in report["networks"].items():
        check(network, _OF_NETWORK, f"networks.{name}")
    for group, kinds in (("results", _OF_RESULT), ("figures", _OF_FIGURES), ("mean", _OF_MEAN)):
        rows = report.get(group, [])
        if not isinstance(rows, list):
            raise InputError(f"{where} is damaged: {group} is {shown(rows)}")
        for number, row in enumerate(rows):
            check(row, kinds, f"{group}[{number}]")
            for name, most in (("accuracy", 1.0), ("seconds", 1e12)):
                if not 0 <= row.get(name, 0) <= most:
                    place = f"{group}[{number}].{name}"
                    raise InputError(f"{where} is damaged: {place} is {shown(row[name])}; allowed: 0 to {most:g}")
    of = {(row["network"], row["checkpoint"]) for row in report["results"]}
    clean = {(row["network"], row["checkpoint"]) for row in report["results"] if row["attack"] == "clean"}
    if whole and of != clean:
        raise InputError(f"{where} has no clean accuracy of {', '.join(min(of - clean))}, which a page shows")
    texts = [*report["warnings"], *(flag for row in report["results"] for flag in row.get("flags", ()))]
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise InputError(f"{where} is damaged: a warning or flag is {shown(odd[0])}")


def markdown(
    report: Mapping[str, Any], facts: Sequence[tuple[str, str]] = (), pictures: Mapping[str, str] | None = None
) -> str:
    """The report as a page: one table per network and checkpoint, warnings first.

    Args:
        report: as `assemble` makes it.
        facts: what was done, in pairs of a word and a phrase, for a list at the beginning.
        pictures: what they show -> their files.
    """
    lines = [f"# {report['method']}", ""]
    lines += [f"> **Warning:** {warning}" for warning in report["warnings"]]
    lines += [""] if report["warnings"] else []
    lines += [
        f"Threat model: {report['norm']}, eps = {report['results'][0]['eps_text']}. "
        f"Configuration {report['config_hash']}, advjax {report['version']}.",
        "",
    ]
    lines += [f"- {word}: {phrase}" for word, phrase in facts]
    lines += [""] if facts else []
    for name, network in report["networks"].items():
        for checkpoint in dict.fromkeys(row["checkpoint"] for row in report["results"] if row["network"] == name):
            chosen = [r for r in report["results"] if (r["network"], r["checkpoint"]) == (name, checkpoint)]
            rows = [row for row in chosen if row["norm"] != "corruption"]
            lines += [f"## {name}: {network['architecture']}, {checkpoint} checkpoint", ""]
            lines += [
                "| attack | norm, eps | accuracy | W-Robust | NRR | images | seconds |",
                "|---|---|---:|---:|---:|---:|---:|",
            ]
            for row in rows:
                where = "" if row["attack"] == "clean" else f"{row['norm']}, {row['eps_text']}"
                cells = [
                    row["attack"],
                    where,
                    _percent(row["accuracy"]),
                    _percent(row["w_robust"]),
                    _percent(row.get("nrr")),
                    row["n"],
                ]
                lines.append("| " + " | ".join(map(str, [*cells, f"{row['seconds']:.1f}"])) + " |")
            first = rows[0]
            lines += ["", f"Seed {first['seed']}, {first['dtype']}, {first['device']}.", ""]
            surrogates = dict.fromkeys(row["surrogate"] for row in rows if row["surrogate"])
            lines += [f"Transfer attacks were crafted on {', '.join(surrogates)}.", ""] if surrogates else []
            lines += _corruptions([row for row in chosen if row["norm"] == "corruption"])
    lines += _figures(report.get("figures", []))
    lines += [line for shows, file in (pictures or {}).items() for line in (f"![{shows}]({file})", "")]
    lines += _mean(report.get("mean", []))
    lines += _teachers(report.get("teachers", {}))
    lines += [
        "W-Robust is the arithmetic, NRR the harmonic mean of clean and robust accuracy; the gap is robust accuracy on "
        "training images less that on test images, ECE the calibration error with 15 bins, mCE the mean error on corrupted "
        "images. All in percent."
    ]
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _corruptions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    severities = " | ".join(str(severity) for severity in range(1, SEVERITIES + 1))
    lines = [f"Accuracy on corrupted images ({rows[0]['params']['source']}), mean and by severity:", ""]
    lines += [f"| corruption | mean | {severities} |", "|---|" + "---:|" * (SEVERITIES + 1)]
    for row in rows:
        shares = [row["accuracy"], *row["by_severity"]]
        lines.append(f"| {row['attack']} | " + " | ".join(map(_percent, shares)) + " |")
    return [*lines, ""]


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures of merit that were measured, a row per network and checkpoint."""
    names = [name for name in FIGURES if any(row[name] is not None for row in rows)]
    if not names:
        return []
    lines = ["## Figures of merit", "", "| network | attack | " + " | ".join(FIGURES[name] for name in names) + " |"]
    lines += ["|---|---|" + "---:|" * len(names)]
    for row in rows:
        cells = [f"{row['network']}, {row['checkpoint']}", row["attack"] or "", *(_percent(row[n]) for n in names)]
        lines.append("| " + " | ".join(cells) + " |")
    notes = {
        "gap_attack": "gap under {}",
        "ece_attack": "ECE under attack: {}",
        "corruptions": "mCE over {} kinds",
    }
    said = [text.format(value) for field, text in notes.items() if (value := rows[0][field])]
    return [*lines, "", *([f"{'; '.join(said)}.", ""] if said else [])]


def _mean(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for checkpoint in dict.fromkeys(row["checkpoint"] for row in rows):
        chosen = [row for row in rows if row["checkpoint"] == checkpoint]
        lines += [f"## Mean of the {chosen[0]['networks']} networks, {checkpoint} checkpoint", ""]
        lines += ["| attack | accuracy | W-Robust |", "|---|---:|---:|"]
        lines += [f"| {row['attack']} | {_percent(row['accuracy'])} | {_percent(row['w_robust'])} |" for row in chosen]
        lines += [""]
    return lines


def _teachers(teachers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not teachers:
        return []
    lines = [
        "## Teachers",
        "",
        "| teacher | network | source | clean | robust | robust in training | SHA-256 |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for role, each in teachers.items():
        source = f"{each['source']} ({each['trained_by']})" if each["trained_by"] else each["source"]
        accuracies = [each.get(f"{kind}_accuracy") for kind in ("clean", "robust", "robust_training")]
        cells = [role, each["architecture"], source, *map(_percent, accuracies), each["params_sha256"][:12]]
        lines.append("| " + " | ".join(cells) + " |")
    where = f"on {each['n']} test images; in training: on the first training images"
    return [*lines, "", f"Measured at the start, robust under {each['attack']}, {where}.", ""]
