"""Named sets of attacks. A protocol is a function of the threat model, so that every row says what was run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from advjax import compiling, losses, plugins, threat
from advjax.attacks.engine.loops import as_partial
from advjax.attacks.pgd import maximize, pgd
from advjax.data import Split
from advjax.errors import InputError, unknown
from advjax.evaluate import corruptions as corrupted
from advjax.numbers import Number, check_range, number, text

LogitsFn = Callable[[jax.Array], jax.Array]
# (x', x, y) -> [B]
OwnLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


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
        own_loss: whether `craft` takes, in place of `logits_fn`, the method's own loss `(x', x, y) -> [B]`; left out where
            none is known.
        images: what is scored in place of a split: corrupted images of it, at five severities one after the other.
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
    own_loss: bool = False
    images: Callable[[Split], Split] | None = None

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


def loss_attack(
    name: str,
    loss: Callable[..., jax.Array],
    *,
    norm: str,
    eps: Number,
    steps: int = 100,
    step_size: Number | None = None,
    start: str = "uniform",
    own_loss: bool = False,
) -> Attack:
    """PGD on any loss of a network as a row of a report: how an adaptive attack is written.

    Args:
        name: of the row.
        loss: `(logits_fn, x', x, y) -> [B]`, maximised per image; x' are the adversarial images so far, x the clean ones,
            y the labels. Hashable, so a function of a module, and differentiable in x'. For accelerators, where the loop
            runs on the device, it must be JAX.
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number or a fraction.
        steps: number of gradients.
        step_size: length of a step; as `pgd_steps` has it if absent.
        start: where it begins, `advjax.threat.random_start`.
        own_loss: see `Attack`; `loss` is called with the method's own loss in place of `logits_fn`.

    Examples:
        >>> def loss(logits_fn, x_adv, x, y):
        ...     return losses.kl(logits_fn(x), logits_fn(x_adv))
        >>> loss_attack("kl", loss, norm="linf", eps="8/255").params["steps"]
        100
    """
    length = number(eps) / (12 if norm == "l1" else 4) if step_size is None else number(step_size)
    settings = {"steps": steps, "step_size": length, "start": start}
    craft = partial(_run_loss, loss=loss, norm=norm, eps=number(eps), **settings)
    params = {**settings, "objective": name}
    return Attack(name, norm, eps, craft, params=params, forwards=steps + 1, backwards=steps, own_loss=own_loss)


@dataclasses.dataclass(frozen=True)
class _OfImages:
    """A loss of a network and images as an objective of `maximize`; equal for equal losses."""

    loss: Callable[..., jax.Array]

    def __call__(self, source, x, y, x_adv, aux):
        return self.loss(source, x_adv, x, y), aux


def _run_loss(source, key, x, y, ids, *, loss, norm, eps, steps, step_size, start):
    objective = jax.tree_util.Partial(_OfImages(loss), as_partial(source), x, y)
    with compiling.for_arrays(x, key):
        first = _begin(jax.random.fold_in(key, 0), x, ids, eps, norm=norm, start=start)
        settings = {"norm": norm, "eps": eps, "step_size": step_size, "steps": steps}
        return maximize(objective, x, first, key=jax.random.fold_in(key, 1), ids=ids, **settings)[0]


@partial(jax.jit, static_argnames=("norm", "start"))
def _begin(key, x, ids, eps, *, norm, start):
    return threat.random_start(key, x, ids, norm, eps, start)


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


def kl_to_clean(logits_fn: LogitsFn, x_adv: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """TRADES's objective: KL(p(x) || p(x'))."""
    return losses.kl(logits_fn(x), logits_fn(x_adv))


def _itself(own_loss, x_adv, x, y):
    return own_loss(x_adv, x, y)


def adaptive(norm: str, eps: Number) -> tuple[Attack, ...]:
    """For methods whose loss is no cross-entropy: PGD-100 on CE, margin, KL to the clean prediction and the method's loss.

    The last, `pgd100_own`, is there where a run's method says what to maximise (`Method.adaptive_loss`): what its loss
    makes of an adversarial image, teachers and averages included. An image survives `adaptive` if it survives them all.
    """
    rows = (
        pgd_steps(100, norm, eps),
        pgd_steps(100, norm, eps, name="pgd100_margin", objective="margin"),
        loss_attack("pgd100_kl", kl_to_clean, norm=norm, eps=eps),
        loss_attack("pgd100_own", _itself, norm=norm, eps=eps, own_loss=True),
    )
    names = tuple(row.name for row in rows)
    whole = Attack("adaptive", norm, eps, all_of=names, params={"all_of": list(names)})
    return (clean(norm, eps), pgd_steps(20, norm, eps), *rows, whole)


def corruptions(norm: str, eps: Number, folder: str = "") -> tuple[Attack, ...]:
    """Clean accuracy and that on corrupted images, a row per kind, over five severities; no attack.

    Args:
        norm: of the threat model, for the clean row.
        eps: its radius, likewise.
        folder: of CIFAR-10-C's layout (`advjax.evaluate.corruptions`); empty: the kinds that a formula gives.
    """
    params = {"severities": corrupted.SEVERITIES, "source": "files" if folder else "computed"}
    return (
        clean(norm, eps),
        *(
            Attack(kind, "corruption", 0, _unchanged, params=params, images=images)
            for kind, images in corrupted.sources(folder).items()
        ),
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
    "adaptive": adaptive,
    "bmtard": bmtard,
    "clean": clean_only,
    "corruptions": corruptions,
    "curve": curve,
    "dynat": dynat,
    "fast": fast,
    "mat": mat,
    "quick": quick,
    "sglr": sglr,
    "standard": standard,
    "union": union,
}


def protocol(
    name: str, norm: str, eps: Number, radii: Mapping[str, Number] | None = None, corruptions: str = ""
) -> tuple[Attack, ...]:
    """The attacks of a protocol.

    Args:
        name: one of `PROTOCOLS`, or `package.module:function`, called as `function(norm, eps)`.
        norm: norm of the threat model.
        eps: its radius, as it is to be written in the report.
        radii: for `union`, the radius of every norm at which every network is tested; 8/255, 0.5 and 12 where absent.
        corruptions: for `corruptions`, the folder of the corrupted images; those that a formula gives where absent.

    Raises:
        InputError: no protocol or norm has that name; a radius is no number, or negative; a folder without such images.
    """
    norm = threat.canonical_norm(norm)
    check_range(number(eps, "eps"), "eps")
    for other, radius in (radii or {}).items():
        if other not in threat.NORMS:
            raise unknown("norm in radii", other, threat.NORMS)
        check_range(number(radius, f"radii.{other}"), f"radii.{other}")
    if name in PROTOCOLS:
        own: dict[str, Any] = {"union": {"radii": radii} if radii else {}, "corruptions": {"folder": corruptions}}
        return PROTOCOLS[name](norm, eps, **own.get(name, {}))
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
