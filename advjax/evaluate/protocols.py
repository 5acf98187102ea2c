"""Named sets of attacks. A protocol is a function of the threat model, so that every row says what was run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from advjax import plugins, threat
from advjax.attacks.pgd import pgd
from advjax.errors import InputError, unknown
from advjax.numbers import Number, check_range, number, text

LogitsFn = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Attack:
    """One row of a report. Exactly one of `craft`, `stages` and `all_of` says how its outcomes come about.

    Attributes:
        name: unique in its protocol, as it appears in the report.
        norm: norm of the threat model.
        eps: its radius, as it is to be written: a number or a fraction such as `"8/255"`.
        craft: `(logits_fn, key, x, y, ids) -> x_adv`, all [B, ...].
        stages: attacks of `advjax.attacks.cascade`, each on what the ones before left standing.
        all_of: names of other rows; an example must have survived them all.
        params: what the report says of it.
        forwards: of `craft`, forward passes per image, the scoring of the result included.
        backwards: of `craft`, backward passes per image.
        transfer: whether the examples are crafted on the surrogate network and scored on the other.
        examples: how many images, the first ones; 0: all.
    """

    name: str
    norm: str
    eps: Number
    craft: Callable[..., jax.Array] | None = None
    stages: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    forwards: int = 1
    backwards: int = 0
    transfer: bool = False
    examples: int = 0

    @property
    def radius(self) -> float:
        """`eps` as a number."""
        return number(self.eps)


def _unchanged(logits_fn, key, x, y, ids):
    return x


def clean(norm: str = "linf", eps: Number = 0) -> Attack:
    """No attack: accuracy on the images as they are."""
    return Attack("clean", norm, eps, _unchanged)


def _run_pgd(logits_fn, key, x, y, ids, **params):
    return pgd(logits_fn, key, x, y, ids=ids, **params)


def pgd_attack(
    name: str,
    *,
    norm: str,
    eps: Number,
    steps: int,
    step_size: Number,
    start: str = "uniform",
    objective: str = "ce",
    restarts: int = 1,
    freeze: bool = False,
    transfer: bool = False,
) -> Attack:
    """`advjax.attacks.pgd` with these settings as a row of a report."""
    settings = {
        "steps": steps,
        "step_size": number(step_size),
        "start": start,
        "objective": objective,
        "restarts": restarts,
        "freeze": freeze,
    }
    passes = steps * restarts
    scoring = restarts if restarts > 1 else 0
    craft = partial(_run_pgd, norm=norm, eps=number(eps), **settings)
    return Attack(
        name, norm, eps, craft, params=settings, forwards=passes + scoring + 1, backwards=passes, transfer=transfer
    )


def pgd_steps(steps: int, norm: str, eps: Number, **changes: Any) -> Attack:
    """`pgd10`, `pgd20`, `pgd100`: step eps/4, uniform start (l_1: eps/12, since its steps are sparse)."""
    step_size = number(eps) / (12 if norm == "l1" else 4)
    settings = {"name": f"pgd{steps}", "steps": steps, "step_size": step_size, **changes}
    return pgd_attack(norm=norm, eps=eps, **settings)


def stages(name: str, norm: str, eps: Number, *attacks: str) -> Attack:
    """Attacks of AutoAttack's machinery as one row; only `autoattack` is the standard version."""
    return Attack(name, norm, eps, stages=attacks or (name,), params={"attacks": list(attacks or (name,))})


def autoattack(norm: str, eps: Number) -> Attack:
    """AutoAttack, standard version."""
    return stages("autoattack", norm, eps, "apgd_ce", "apgd_t", "fab_t", "square")


def _published(norm: str, eps: Number) -> bool:
    """Whether radii published for colour images apply: l_inf and at most 16/255, twice the usual 8/255."""
    return norm == "linf" and number(eps) <= 16.1 / 255


def pgd_trades(norm: str, eps: Number, name: str = "pgd20_trades", **changes: Any) -> Attack:
    """PGD-20 as TRADES' authors test: steps of 0.003 at 0.031 or 8/255, in proportion at other radii; uniform start."""
    radius = number(eps)
    step_size = 0.003 if norm == "linf" and 0.0309 < radius < 0.0315 else radius * 0.003 / 0.031
    return pgd_attack(name, norm=norm, eps=eps, steps=20, step_size=step_size, **changes)


def quick(norm: str, eps: Number) -> tuple[Attack, ...]:
    """Clean, PGD-20, APGD-CE: minutes where AutoAttack takes hours, and no substitute for it."""
    return (clean(norm, eps), pgd_steps(20, norm, eps), stages("apgd_ce", norm, eps))


def fast(norm: str, eps: Number) -> tuple[Attack, ...]:
    """Clean, PGD-20, APGD-CE and APGD-T (AutoAttack's `fast` tier): nearly AutoAttack, at a third of its cost."""
    return (
        clean(norm, eps),
        pgd_steps(20, norm, eps),
        stages("autoattack_fast", norm, eps, "apgd_ce", "apgd_t"),
    )


def standard(norm: str, eps: Number) -> tuple[Attack, ...]:
    """Clean, PGD-20 and AutoAttack, standard version."""
    return (clean(norm, eps), pgd_steps(20, norm, eps), autoattack(norm, eps))


def bmtard(norm: str, eps: Number) -> tuple[Attack, ...]:
    """B-MTARD's: FGSM, PGD_sat, PGD_trades, CW-inf, AutoAttack; black box: transfer from a surrogate, Square 100."""
    step = number(eps) / 4
    cw: dict[str, Any] = {"steps": 30, "step_size": step, "objective": "cw"}
    return (
        clean(norm, eps),
        pgd_attack("fgsm", norm=norm, eps=eps, steps=1, step_size=eps, start="none"),
        pgd_steps(20, norm, eps),
        pgd_trades(norm, eps),
        pgd_attack("cw30", norm=norm, eps=eps, **cw),
        autoattack(norm, eps),
        pgd_trades(norm, eps, "transfer_pgd20_trades", transfer=True),
        pgd_attack("transfer_cw30", norm=norm, eps=eps, **cw, transfer=True),
        stages("square100", norm, eps, "square_100"),
    )


def dynat(norm: str, eps: Number) -> tuple[Attack, ...]:
    """DYNAT's: FGSM and PGD-10/20/50, CW-20 from a uniform start, frozen once misclassified; AutoAttack.

    As the authors test, at 8/255 with steps of 2/255 whatever the radius of the training (theirs is 0.031), and
    AutoAttack at 0.031 on the first 1,000 images besides. In other norms, and beyond 16/255, where 8/255 would say little
    (digits are trained at 0.2), everything is at `eps`, steps a quarter of it, and AutoAttack runs once.
    """
    published = _published(norm, eps)
    eps = "8/255" if published else eps
    step = number(eps) / 4
    theirs = dataclasses.replace(autoattack(norm, 0.031), name="autoattack_0.031", examples=1000)

    def frozen(name, steps, step_size=step, objective="ce"):
        settings = {"steps": steps, "step_size": step_size, "objective": objective, "freeze": True}
        return pgd_attack(name, norm=norm, eps=eps, **settings)

    return (
        clean(norm, eps),
        frozen("fgsm", 1, step_size=number(eps)),
        *(frozen(f"pgd{steps}", steps) for steps in (10, 20, 50)),
        frozen("cw20", 20, objective="margin"),
        *([theirs] if published else []),
        autoattack(norm, eps),
    )


def sglr(norm: str, eps: Number) -> tuple[Attack, ...]:
    """SGLR's: PGD-10, PGD-20, PGD-20 with small steps, AutoAttack, for best and last checkpoint and their difference.

    The small steps are 0.003 at 0.031, the test in the authors' code, for l_inf radii up to 16/255; in other norms and
    beyond, where `eps` is no colour image's, they are at `eps`, in proportion.
    """
    return (
        clean(norm, eps),
        pgd_steps(10, norm, eps),
        pgd_steps(20, norm, eps),
        pgd_trades(norm, 0.031 if _published(norm, eps) else eps),
        autoattack(norm, eps),
    )


def mat(norm: str, eps: Number) -> tuple[Attack, ...]:
    """MAT's, for every peer: FGSM, PGD-20, PGD-100, CW-100 and AutoAttack."""
    return (
        clean(norm, eps),
        pgd_attack("fgsm", norm=norm, eps=eps, steps=1, step_size=eps, start="none"),
        pgd_steps(20, norm, eps),
        pgd_steps(100, norm, eps),
        pgd_attack("cw100", norm=norm, eps=eps, steps=100, step_size=number(eps) / 4, objective="margin"),
        autoattack(norm, eps),
    )


UNION_RADII: dict[str, Number] = {"linf": "8/255", "l2": 0.5, "l1": 12}


def union(norm: str, eps: Number, radii: Mapping[str, Number] = UNION_RADII) -> tuple[Attack, ...]:
    """Robustness to l_inf, l_2 and l_1 at once: PGD-50 with 10 restarts, APGD-CE and APGD-T in each norm, and all.

    Every network is tested at the same `radii`, by default those of CIFAR, whatever it was trained for: `norm` and `eps`
    name its threat model in the clean row only. Maini et al. (2020) test at 0.03 in l_inf; digits want radii of their
    own.
    """
    radii = {**UNION_RADII, **radii}
    pgd_rows = [pgd_steps(50, other, radii[other], name=f"pgd50_10_{other}", restarts=10) for other in threat.NORMS]
    apgd_rows = [stages(f"apgd_{other}", other, radii[other], "apgd_ce", "apgd_t") for other in threat.NORMS]

    def survives_all(name, rows):
        names = tuple(row.name for row in rows)
        params = {"all_of": list(names), "radii": {other: text(radii[other]) for other in threat.NORMS}}
        return Attack(name, "union", radii["linf"], all_of=names, params=params)

    return (
        clean(norm, eps),
        *pgd_rows,
        survives_all("union_pgd50_10", pgd_rows),
        *apgd_rows,
        survives_all("union", [*pgd_rows, *apgd_rows]),
    )


def curve(norm: str, eps: Number) -> tuple[Attack, ...]:
    """Robust accuracy against epsilon: PGD-20 at 1/4 to 8 times the radius; it must fall to 0, or gradients are masked."""
    limit = {"linf": 1.0}.get(norm, float("inf"))
    radii = sorted({min(number(eps) * factor, limit) for factor in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8)})
    rows = (pgd_steps(20, norm, radius, name=f"pgd20@{radius:.4g}") for radius in radii)
    return (clean(norm, eps), *rows)


def clean_only(norm: str, eps: Number) -> tuple[Attack, ...]:
    """Clean accuracy alone, for networks that make no claim of robustness."""
    return (clean(norm, eps),)


PROTOCOLS: dict[str, Callable[..., tuple[Attack, ...]]] = {
    "bmtard": bmtard,
    "clean": clean_only,
    "curve": curve,
    "dynat": dynat,
    "fast": fast,
    "mat": mat,
    "quick": quick,
    "sglr": sglr,
    "standard": standard,
    "union": union,
}


def protocol(name: str, norm: str, eps: Number, radii: Mapping[str, Number] | None = None) -> tuple[Attack, ...]:
    """The attacks of a protocol.

    Args:
        name: one of `PROTOCOLS`, or `package.module:function`, called as `function(norm, eps)`.
        norm: norm of the threat model.
        eps: its radius, as it is to be written in the report.
        radii: for `union`, the radius of every norm at which every network is tested; 8/255, 0.5 and 12 where absent.

    Raises:
        InputError: no protocol or norm has that name; a radius is no number, or negative.
    """
    norm = threat.canonical_norm(norm)
    check_range(number(eps, "eps"), "eps")
    for other, radius in (radii or {}).items():
        if other not in threat.NORMS:
            raise unknown("norm in radii", other, threat.NORMS)
        check_range(number(radius, f"radii.{other}"), f"radii.{other}")
    if name in PROTOCOLS:
        return PROTOCOLS[name](norm, eps, **({"radii": radii} if radii and name == "union" else {}))
    if not plugins.is_reference(name) and name not in plugins.registered("protocol"):
        raise unknown("protocol", name, PROTOCOLS, "protocol")
    return _from_outside(name, norm, eps)


def _from_outside(name: str, norm: str, eps: Number) -> tuple[Attack, ...]:
    made = plugins.call(plugins.resolve(name, "protocol", PROTOCOLS), f"protocol {name}", norm, eps)
    attacks = tuple(made) if isinstance(made, (tuple, list)) else ()
    if not attacks or not all(isinstance(attack, Attack) for attack in attacks) or attacks[0].name != "clean":
        raise InputError(
            f"must give advjax.evaluate.Attack rows, the first of them clean(), {name} does not", "protocol"
        )
    if len({attack.name for attack in attacks}) < len(attacks):
        raise InputError(f"must give rows of different names, {name} does not", "protocol")
    return attacks
