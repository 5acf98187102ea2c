"""What people call the things that configs, reports and logs name in code: attacks, norms, methods, logged quantities.

Symbols stand between dollar signs as matplotlib's mathtext has them; `to_html` writes them for a page. A dollar sign that
is meant as one is written with a backslash before it, which `literal` does.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}
_GREEK = {"tau": "τ", "eta": "η", "alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "epsilon": "ε"}
_SIGNS = {**_GREEK, "ell": "ℓ", "infty": "∞", "prime": "′", "|": "‖", ",": " ", "times": "×", "to": "→"}
_TOKEN = re.compile(r"\\mathrm\{([^}]*)\}|\\([A-Za-z]+|[|,])|([_^])|([{}])|([A-Za-z])|(.)")
_DOLLAR = re.compile(r"(?<!\\)\$")


def literal(text: Any) -> str:
    """A text of somebody else's as it stands, without symbols."""
    return str(text).replace("$", r"\$")


def to_html(text: str) -> str:
    """A text with symbols as HTML; everything else in it is escaped.

    Examples:
        >>> to_html(r"$\\tau_\\mathrm{adv}$ of <b>")
        '<i>τ</i><sub>adv</sub> of &lt;b&gt;'
    """
    parts = _DOLLAR.split(text)
    if len(parts) % 2 == 0:  # a dollar sign without its fellow
        parts = ["$".join(parts)]
    made = [_symbol(part) if index % 2 else html.escape(part.replace(r"\$", "$")) for index, part in enumerate(parts)]
    return "".join(made)


def _symbol(tex: str) -> str:
    made, wanted, open_groups = [], "", []
    for token in _TOKEN.finditer(tex):
        upright, command, script, brace, letter, other = token.groups()
        if script:
            wanted = {"_": "sub", "^": "sup"}[script]
            continue
        if brace == "{":
            open_groups.append(wanted)
            made.append(f"<{wanted}>" if wanted else "")
            wanted = ""
            continue
        if brace == "}":
            tag = open_groups.pop() if open_groups else ""
            made.append(f"</{tag}>" if tag else "")
            continue
        if command:
            text = _SIGNS.get(command, html.escape(command))
            text = f"<i>{text}</i>" if command in _GREEK else text
        else:
            text = html.escape(upright or other or "") if letter is None else f"<i>{letter}</i>"
        made.append(f"<{wanted}>{text}</{wanted}>" if wanted else text)
        wanted = ""
    return "".join(made)


def to_text(text: str) -> str:
    """A text with symbols as plain text."""
    return html.unescape(re.sub(r"<[^>]*>", "", to_html(text)))


_METHODS = {
    "natural": "Natural training", "adaad": "AdaAD", "bmtard": "B-MTARD", "rebat": "ReBAT", "at_awp": "AT-AWP",
    "mat_union": "MAT over a union of norms", "consistency_at": "Consistency-AT", "kd": "KD", "p_inf": r"P$_\infty$",
    "p_1": r"P$_1$", "p_2": r"P$_2$", "mat_mutual_union": "MAT over a union, mutual", "dkl": "IKL-AT", "st_at": "ST-AT",
    "iad_i": "IAD-I", "iad_ii": "IAD-II",
}  # fmt: skip


def method(name: str) -> str:
    """`pgd_at` -> PGD-AT; names of parts from outside as they are."""
    if name in _METHODS:
        return _METHODS[name]
    known = re.fullmatch(r"[a-z0-9_]{2,30}", name)
    return name.upper().replace("_", "-") if known else literal(name.rpartition(":")[2] or name)


def norm(name: str) -> str:
    """`linf` as its symbol."""
    return NORMS.get(name, literal(name))


_ATTACKS = {
    "clean": "Clean", "fgsm": "FGSM", "autoattack": "AutoAttack", "autoattack_fast": "APGD-CE + APGD-T",
    "apgd_ce": "APGD-CE", "apgd_t": "APGD-T", "apgd_dlr": "APGD-DLR", "fab_t": "FAB-T", "square": "Square",
    "union": "All norms, all attacks", "union_pgd50_10": "All norms, PGD-50 x 10",
}  # fmt: skip


_NUMBERED = re.compile(r"(pgd|cw)(\d+)(?:_(\d+))?(?:_(linf|l2|l1))?(_trades)?(?:@([\d.e-]+))?")


def attack(name: str) -> str:
    """`pgd20_trades` -> PGD-20, TRADES' steps."""
    if name in _ATTACKS:
        return _ATTACKS[name]
    if name.startswith("transfer_"):
        return f"Transfer, {attack(name.removeprefix('transfer_'))}"
    if found := _NUMBERED.fullmatch(name):
        kind, steps, restarts, of_norm, trades, radius = found.groups()
        parts = [f" x {restarts}" if restarts else "", f" in {norm(of_norm)}" if of_norm else ""]
        parts += [", TRADES' steps" if trades else "", rf" at $\epsilon$ = {radius}" if radius else ""]
        return f"{kind.upper()}-{steps}" + "".join(parts)
    if found := re.fullmatch(r"square_?(\d+)", name):
        return f"Square, {found[1]} queries"
    if found := re.fullmatch(r"apgd_(linf|l2|l1)", name):
        return f"APGD-CE + APGD-T in {norm(found[1])}"
    if found := re.fullmatch(r"autoattack_([\d.]+)", name):
        return rf"AutoAttack at $\epsilon$ = {found[1]}"
    return literal(name.replace("_", " "))


def tier(row: Mapping[str, Any]) -> str:
    """How much an attack's number is worth, in a few words."""
    name, params = row["attack"], row.get("params") or {}
    if row.get("tier"):
        return literal(row["tier"])
    if name == "clean":
        return "no attack"
    if row.get("surrogate") or name.startswith("transfer_"):
        return "black box, transfer"
    if params.get("all_of"):
        return "worst case of several attacks"
    attacks = params.get("attacks") or []
    if any(each.startswith("square") for each in attacks) and len(attacks) == 1:
        return "black box, queries"
    if name.startswith("autoattack"):
        return "AutoAttack, standard version" if len(attacks) == 4 else "AutoAttack's fast tier"
    if attacks:
        return "adaptive steps, white box"
    if params.get("steps") == 1 or name == "fgsm":
        return "one step, white box"
    return "fixed steps, white box" if "steps" in params else "an attack of one's own"


def settings(params: Mapping[str, Any]) -> str:
    """An attack's parameters, in words."""
    parts = [f"{params['steps']} steps of {params['step_size']:.3g}"] if {"steps", "step_size"} <= set(params) else []
    parts += [f"{params['start']} start"] if params.get("start") not in (None, "none") else []
    parts += [f"{params['restarts']} restarts"] if params.get("restarts", 1) != 1 else []
    objective = {"ce": "", "margin": "margin loss", "cw": "CW loss"}.get(params.get("objective", "ce"))
    parts += [objective if objective is not None else f"{params['objective']} loss"] if objective != "" else []
    parts += [" + ".join(attack(name) for name in params["attacks"])] if len(params.get("attacks", ())) > 1 else []
    return ", ".join(parts)


class Quantity(NamedTuple):
    """A logged quantity.

    Attributes:
        panel: what it is drawn with.
        label: its name in the legend.
    """

    panel: str
    label: str


_ADV, _NAT = r"_\mathrm{adv}", r"_\mathrm{nat}"
STEPS, LOSS, TERMS = "Accuracy in the training steps", "Loss", "Terms of the loss"
_QUANTITIES = {
    "loss": Quantity(LOSS, "whole loss"),
    "learning_rate": Quantity("Learning rate", r"$\eta$"),
    "clean_accuracy": Quantity(STEPS, "clean"),
    "robust_accuracy": Quantity(STEPS, "robust"),
    "transfer_accuracy": Quantity(STEPS, "on the peers' examples"),
    "adv_temperature": Quantity("Temperatures of the teachers", rf"$\tau{_ADV}$, robust teacher"),
    "nat_temperature": Quantity("Temperatures of the teachers", rf"$\tau{_NAT}$, clean teacher"),
    "adv_weight": Quantity("Weights of the two losses", rf"$w{_ADV}$, robust teacher"),
    "nat_weight": Quantity("Weights of the two losses", rf"$w{_NAT}$, clean teacher"),
    "adv_entropy": Quantity("Entropy of the teachers' labels", rf"$H(q{_ADV})$, robust teacher"),
    "nat_entropy": Quantity("Entropy of the teachers' labels", rf"$H(q{_NAT})$, clean teacher"),
    "adv_loss": Quantity(TERMS, rf"$L{_ADV}$, adversarial images"),
    "nat_loss": Quantity(TERMS, rf"$L{_NAT}$, clean images"),
    "natural_loss": Quantity(TERMS, r"CE$(f(x),\,y)$"),
    "label_loss": Quantity(TERMS, r"CE$(f(x\prime),\,y)$"),
    "kl": Quantity(TERMS, r"KL$(p(x)\,\|\,p(x\prime))$"),
    "guide_loss": Quantity(TERMS, r"CE$(g(x),\,y)$, guide"),
    "target_loss": Quantity(TERMS, r"CE$(f(x\prime),\,l)$, target"),
    "label_agreement": Quantity("Agreement with the true labels", r"guide's label $l$"),
    "memory_agreement": Quantity("Agreement with the true labels", r"memory $S$"),
    "memory_entropy": Quantity("Entropy of the label memory", r"$H(S)$"),
    "teacher_entropy": Quantity("Entropy of the teachers' labels", r"$H(q)$"),
    "distillation": Quantity(TERMS, "distillation"),
    "disagreement": Quantity("Disagreement of the peers", "share of the images"),
}
_VALIDATION = re.compile(r"(?:(?P<network>.+)\.)?(?P<part>train|validation)_(?P<kind>clean|robust)_accuracy")
_PEER = re.compile(r"peer(\d+)_(loss|clean_accuracy|robust_accuracy|on_peer(\d+)_accuracy)")


def quantity(name: str) -> Quantity:
    """What a key of `metrics.jsonl` is; one that nothing is known of goes by its own words."""
    if name in _QUANTITIES:
        return _QUANTITIES[name]
    if found := _PEER.fullmatch(name):
        k, kind, other = found.groups()
        if kind == "loss":
            return Quantity("Loss of every peer", f"$L_{{{k}}}$, peer {k}")
        if other is not None:
            return Quantity("Accuracy on the peers' examples", f"peer {k} on peer {other}'s")
        return Quantity(f"{kind.split('_')[0].capitalize()} accuracy in the training steps", f"peer {k}")
    words = literal(name.replace("_", " ").strip()) or "unnamed"
    if name.endswith("_accuracy"):
        return Quantity("Further accuracies in the training steps", words.removesuffix(" accuracy"))
    if name.endswith("_loss"):
        return Quantity(TERMS, words.removesuffix(" loss"))
    last = words.split(" ")[-1]
    return Quantity(last[:1].upper() + last[1:], words)


def validated(name: str) -> tuple[str, str, str] | None:
    """(network or "", `train` or `validation`, `clean` or `robust`) of an accuracy of a validation; None of others."""
    found = _VALIDATION.fullmatch(name)
    return (found["network"] or "", found["part"], found["kind"]) if found else None


def network(name: str) -> str:
    """`peer0` -> peer 0."""
    return literal(re.sub(r"(?<=[a-z])_?(\d+)$", r" \1", name).replace("_", " "))
