"""AutoAttack: four attacks one after the other, each on the images that still stand (Croce and Hein 2020)."""

from __future__ import annotations

import dataclasses
import os
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import compiling
from advjax.attacks.apgd import APGD
from advjax.attacks.engine import flags as flag
from advjax.attacks.engine.batching import Attempt, Images, LoopBody, run_all
from advjax.attacks.engine.identity import draws_on_host, identity, uses_gradients
from advjax.attacks.engine.inputs import NON_FINITE, check_choice, check_count, check_flag, default_ids
from advjax.attacks.engine.loops import repeat
from advjax.attacks.engine.oracle import Example, Oracle, is_wrong, loss_for, prepare
from advjax.attacks.engine.record import Record, checksum
from advjax.attacks.engine.show import table
from advjax.attacks.fab import FAB
from advjax.attacks.malt import nearest_classes
from advjax.attacks.square import Square
from advjax.errors import InputError, shown, unknown
from advjax.files import as_path
from advjax.parallel import Devices

VERSIONS = {
    "fast": ("apgd_ce", "apgd_t"),
    "standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "plus": ("apgd_ce_5", "apgd_dlr_5", "fab_5", "square", "apgd_t", "fab_t"),
    "rand": ("apgd_ce", "apgd_dlr"),
}
RAND_EOT_SAMPLES = 20
MOST_QUERIES = 1_000_000


class Stage(NamedTuple):
    """One attack of a cascade.

    Attributes:
        name: unique in its cascade; with the key it fixes the noise.
        attack: the loop body.
        trials: restarts, or targets, tried one after the other on what still stands.
    """

    name: str
    attack: LoopBody
    trials: int = 1


def stage(name: str, norm: str, num_classes: int) -> Stage:
    """An attack of AutoAttack by its name.

    Args:
        name: `"apgd_ce"`, `"apgd_dlr"`, `"fab"` (each also as `NAME_5` with five restarts), `"apgd_t"`, `"fab_t"` (over
            the nine likeliest wrong classes, or as many as there are), `"square"` (5,000 queries), `"square_QUERIES"`.
        norm: canonical norm. For l_1, `"apgd_ce"` has five restarts and `"apgd_t"` five targets, as in the reference.
        num_classes: K.

    Raises:
        InputError: no attack has that name.
    """
    targets = min(9, num_classes - 1)
    base, _, number = name.rpartition("_")
    if base == "square" and number.isdigit():
        if not 1 <= int(number[:12]) <= MOST_QUERIES:
            raise InputError(f"an attack square_QUERIES has 1 to {MOST_QUERIES:,} queries, it is {shown(name)}")
        return Stage(name, Square(norm, int(number)))
    restarts = 5 if number == "5" else 1
    base = base if number == "5" else name
    if base in ("apgd_ce", "apgd_dlr"):
        restarts = 5 if norm == "l1" and base == "apgd_ce" else restarts
        return Stage(name, APGD(norm, loss_for(base.removeprefix("apgd_"), num_classes), stop=True), restarts)
    if base == "fab":
        return Stage(name, FAB(norm, targeted=False, num_classes=num_classes, stop=True), restarts)
    if name == "apgd_t":
        trials = min(targets, 5) if norm == "l1" else targets
        return Stage(name, APGD(norm, loss_for("dlr_targeted", num_classes), stop=True), trials)
    if name == "fab_t":
        return Stage(name, FAB(norm, stop=True), targets)
    if name == "square":
        return Stage(name, Square(norm))
    raise unknown("attack", name, ["apgd_ce", "apgd_dlr", "apgd_t", "fab", "fab_t", "square", "square_QUERIES"])


class AutoAttackResult(NamedTuple):
    """What is left of N images.

    Attributes:
        robust: whether an image withstood everything, bool [N].
        x_adv: the image that broke each, the clean one where none did or where it was misclassified, [N, H, W, C].
        broken_by: the attack that broke each, `"clean"` for a misclassified image, `""` for a robust one, [N].
        accuracy: share of images left after the clean forward and after each attack, by name in their order.
        forwards: forward passes per image, up to the attempt that broke it, [N] (with `rand` or `search_dtype`, the
            forwards that confirm a success aside; queries of Square that needed none counted).
        backwards: backward passes, likewise, [N].
        seconds: wall-clock of this call by attack, compilation included.
        flags: reasons not to trust the number, name -> sentence: `randomised`, `probabilities`, `constant`, `gradients`
            (taken by the network itself), `zero_gradient`, `non_finite`, `masking` (Square broke what the gradients
            could not).
        notes: what was done otherwise than the version's name says, e.g. a loss replaced for want of classes.
    """

    robust: np.ndarray
    x_adv: np.ndarray
    broken_by: np.ndarray
    accuracy: dict[str, float]
    forwards: np.ndarray
    backwards: np.ndarray
    seconds: dict[str, float]
    flags: dict[str, str]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return table(self)


def autoattack(
    logits_fn: Callable[..., jax.Array],
    key: jax.Array,
    x: jax.Array | np.ndarray,
    y: jax.Array | np.ndarray,
    *,
    norm: str,
    eps: float | str,
    version: str = "standard",
    batch_size: int = 0,
    ids: jax.Array | np.ndarray | None = None,
    stochastic: bool = False,
    search_dtype: str | None = None,
    record_path: str | os.PathLike | None = None,
    network_hash: str | None = None,
    non_finite: str = "broken",
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[str, int, int, int], None] | None = None,
) -> AutoAttackResult:
    """AutoAttack (Croce and Hein 2020; reference implementation fra31/auto-attack, commit a392200).

    Every attack starts from the clean images and works on those that still stand. An example's noise, targets and
    schedule depend on `key` and its id only, so batch size, order, devices and interruptions change nothing but the
    rounding of float32. Call it outside `jit`; it uses all local devices.

    Differs from the reference in this: an image leaves as soon as it is broken (the first adversarial point is
    returned, not the last); Square draws windows and signs per example over all positions (`advjax.attacks.square`);
    logits that are not finite break an image unless `non_finite` says otherwise; with fewer than ten classes there are
    fewer targets, and below three (targeted: four) the margin replaces the DLR loss; `rand` judges a point by the
    majority of 20 forwards, and of 20 fresh ones where these call it a success, instead of one.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode.
        key: random key, `jax.random.key(seed)`.
        x: clean images [N, H, W, C], float in [0, 1].
        y: labels [N].
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number or a fraction such as `"8/255"`; 0 gives the clean accuracy.
        version: `"standard"` (APGD-CE, APGD-T, FAB-T, Square), `"fast"` (the first two: not AutoAttack, but within
            0.02 points of it in 17 public logs), `"plus"` (l_inf and l_2; five restarts, more attacks) or `"rand"` (for
            randomised networks: APGD-CE and APGD-DLR on the mean gradient of 20 forwards).
        batch_size: images at a time (rounded up to a multiple of the devices); bounds the memory. 0: 128 for every CPU
            device, 512 for every other.
        ids: example ids [N], different from each other; 0..N-1 if absent.
        stochastic: whether the network is randomised, `logits_fn(x, key)`; it then draws per example (`Oracle`).
        search_dtype: e.g. `"bfloat16"`: precision of the search. Successes count in float32 only.
        record_path: a file to which every outcome is appended as it is known (`Record`; adversarial images beside it).
            The same call again goes on from there and ends with the same numbers; with another network, known by its
            weights or by its logits on fixed images, it is refused.
        network_hash: a name for the network beside that.
        non_finite: what NaN or infinite logits of an attacked image count as, `"broken"` or `"robust"` (flagged either
            way).
        devices: those to use; all local ones if absent.
        progress: called with (attack, attempts settled, attempts in all, images that stand) as they are.

    Returns:
        `AutoAttackResult`, on the host.

    Raises:
        InputError: images outside [0, 1], labels that are no classes, fewer than two classes, no images, a negative
            or too large radius, no random key, logits that are not finite on a clean image, `plus` with l_1, equal ids,
            an unknown version, a `logits_fn` that is no JAX function of batches of any size, a record of a different
            evaluation or network.
    """
    if not isinstance(version, str) or version not in VERSIONS:
        raise unknown("version (of AutoAttack)", version, VERSIONS)
    if version == "plus" and str(norm).lower().replace("_", "") in ("l1", "1"):
        raise InputError("version 'plus' is defined for linf and l2 only")
    return cascade(
        logits_fn, key, x, y, norm=norm, eps=eps, attacks=VERSIONS[version], batch_size=batch_size, ids=ids,
        eot_samples=RAND_EOT_SAMPLES if version == "rand" else 1, stochastic=stochastic, search_dtype=search_dtype,
        record_path=record_path, network_hash=network_hash, non_finite=non_finite, devices=devices, progress=progress,
    )  # fmt: skip


def cascade(
    logits_fn: Callable[..., jax.Array],
    key: jax.Array,
    x: jax.Array | np.ndarray,
    y: jax.Array | np.ndarray,
    *,
    norm: str,
    eps: float | str,
    attacks: Sequence[str | Stage],
    targets: str = "logits",
    batch_size: int = 0,
    ids: jax.Array | np.ndarray | None = None,
    eot_samples: int = 1,
    stochastic: bool = False,
    search_dtype: str | None = None,
    record_path: str | os.PathLike | None = None,
    network_hash: str | None = None,
    non_finite: str = "broken",
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[str, int, int, int], None] | None = None,
    part: int | None = None,
) -> AutoAttackResult:
    """AutoAttack's machinery for any sequence of its attacks, e.g. `attacks=("apgd_ce",)`; not to be called AutoAttack.

    Args:
        attacks: names (`stage`) or `Stage`s, in their order.
        targets: what targeted attacks aim at: `"logits"`, the likeliest wrong classes, as AutoAttack, or `"malt"`, the
            nearest ones (`malt_targets`).
        eot_samples: forwards over which gradients are averaged and verdicts voted on.
        part: for one of several processes that share the images out: the number of its part of the record (`Record`).
        logits_fn, key, x, y, norm, eps, batch_size, ids: as in `autoattack`.
        stochastic, search_dtype, record_path, network_hash, non_finite, devices, progress: as in `autoattack`.

    Returns:
        `AutoAttackResult`.

    Raises:
        InputError: as in `autoattack`.
    """
    check_flag(stochastic, "stochastic")
    logits_fn, x, y, norm, eps, num_classes = prepare(logits_fn, key, x, y, norm, eps, stochastic=stochastic)
    if np.ndim(eps):
        raise InputError("eps must be one number for all images")
    eps = float(eps)
    check_count(eot_samples, "eot_samples", 1)
    check_choice(non_finite, "non_finite", NON_FINITE)
    check_choice(targets, "targets", ("logits", "malt"))
    if targets == "malt" and stochastic:
        raise InputError("targets 'malt' is for networks that are not stochastic")
    if search_dtype is not None:
        check_choice(search_dtype, "search_dtype", ("bfloat16", "float16", "float32"))
    if not (devices is None or (isinstance(devices, Sequence) and all(isinstance(d, jax.Device) for d in devices))):
        raise InputError(f"devices must be devices such as jax.devices(), they are {shown(devices)}")
    if not (progress is None or callable(progress)):
        raise InputError(f"progress must be a function, it is {shown(progress)}")
    if record_path is not None:
        as_path(record_path, "record_path")
    if (
        not isinstance(attacks, Sequence)
        or isinstance(attacks, str)
        or not attacks
        or not all(isinstance(each, (str, Stage)) for each in attacks)
    ):
        raise InputError(f"attacks must be one or more names or Stages, such as ('apgd_ce',), they are {attacks!r}")
    stages = [stage(a, norm, num_classes) if isinstance(a, str) else a for a in attacks]
    if len({each.name for each in stages}) < len(stages):
        raise InputError(f"attacks must differ from each other, they are {attacks!r}")
    example_ids = np.asarray(default_ids(ids, len(x)))
    if len(np.unique(example_ids)) < len(x):
        raise InputError("ids must differ from each other")
    images = Images(
        np.asarray(x, np.float32), np.asarray(y, np.int32), example_ids, np.zeros((len(x), 0), np.int32), eps
    )
    place = Devices(devices)
    run = _Cascade(
        place.replicate(Oracle(logits_fn, stochastic, eot_samples, search_dtype, non_finite)),
        place.replicate(key), images, stages, num_classes, place.batch_size(batch_size), place,
        progress or (lambda *_: None), norm if targets == "malt" else None,
    )  # fmt: skip
    config = {
        "norm": norm, "eps": eps, "attacks": {s.name: f"{s.attack!r} x {s.trials}" for s in stages},
        "classes": num_classes, "eot_samples": eot_samples, "stochastic": stochastic, "search_dtype": search_dtype,
        "non_finite": non_finite, "targets": targets, "key": np.asarray(jax.random.key_data(key)).tolist(),
        "network": network_hash,
    }  # fmt: skip
    if record_path is not None:
        config |= identity(logits_fn, x.shape[1:], stochastic=stochastic)
    record = Record(record_path, config, x.shape[1:], part)
    try:
        with compiling.scoring(place.devices):
            run.clean(record)
            if eps > 0:
                for index in range(len(stages)):
                    run.attack(index, record)
    finally:
        record.close()
    return run.result()


@dataclasses.dataclass(frozen=True)
class _Clean:
    """The clean forward as a loop body: mean logits [B, K] and the verdict [B]."""

    def __call__(self, _, carry, e, oracle, key):
        keys = oracle.keys(e, key, e.trial)
        logits = oracle.mean_logits(e.x, keys)
        finite = jnp.all(jnp.isfinite(logits), -1)
        wrong, _ = oracle.vote(e.x, e.y, keys) if oracle.eot_samples > 1 else is_wrong(logits, e.y)
        return logits, wrong, finite


# What an attempt may raise beside its outcome, in `Attempt`'s order.
_RAISED = ("zero_gradient", "non_finite")


class _Cascade:
    """A run over all stages: which attempt broke which image first, and what each attempt cost.

    Attempts are ranked through all stages: the trials of the first, of the second, ... An image is broken by its lowest
    attempt that succeeds, whichever is known first, so that nothing depends on how attempts met in batches.
    """

    def __init__(self, oracle, key, images: Images, stages, num_classes, batch_size, devices, progress, malt):
        self.oracle, self.key, self.images, self.stages = oracle, key, images, stages
        self.num_classes, self.batch_size, self.devices, self.progress = num_classes, batch_size, devices, progress
        self.malt = malt  # the norm in which targets are the nearest classes; None: they are the likeliest
        self.first_rank = np.cumsum([0] + [s.trials for s in stages])
        n = len(images.x)
        self.survived = int(self.first_rank[-1])
        self.broken_at = np.full(n, self.survived)
        self.ticks = np.zeros((n, self.survived), np.int32)
        self.x_adv = images.x.copy()
        self.seconds: dict[str, float] = {}
        self.flags: dict[str, str] = {}
        self.zero_gradient, self.non_finite = (np.zeros((n, self.survived), bool) for _ in range(2))

    def clean(self, record: Record) -> None:
        """The clean forward: who stands, the targets, and what is suspicious about the logits."""
        begin = time.perf_counter()
        images, n = self.images, len(self.images.x)
        size = self.devices.sizes(self.batch_size, n)[0]
        body = self.devices.spread(_Clean())
        targets, wrong = [], []
        like_probabilities, constant, first_logits, randomised = True, n > 1, None, False
        for first in range(0, n, size):
            rows = np.arange(first, min(first + size, n))
            padded = np.resize(rows, size)
            e = self.devices.shard(images.rows(padded, np.zeros(size, np.int32)))
            empty = (np.zeros((size, self.num_classes), np.float32), np.zeros(size, bool), np.zeros(size, bool))
            forward = partial(repeat, body, 1, self.devices.shard(empty), e, self.oracle)
            key = jax.random.fold_in(self.key, zlib.crc32(b"clean"))
            logits, off, finite = (a[: len(rows)] for a in jax.device_get(forward(key)))
            if not finite.all():
                raise InputError(
                    f"logits_fn gives logits that are NaN or infinite, first on the clean image of id "
                    f"{images.ids[rows[~finite][0]]}"
                )
            like_probabilities &= bool(flag.are_probabilities(logits).all())
            if first_logits is None:
                first_logits = logits[0]
                keys = (jax.random.fold_in(self.key, draw) for draw in range(5))
                draws = [jax.device_get(forward(key)[0])[: len(rows)] for key in keys]
                randomised = flag.differ(draws, images.y[rows])
            constant &= bool((logits == first_logits).all())
            targets.append(self._targets(e, logits)[: len(rows)])
            wrong.append(off)
        self.images = images._replace(targets=np.concatenate(targets))
        if like_probabilities:
            self.flags["probabilities"] = flag.PROBABILITIES
        if constant and (images.x != images.x[:1]).any():
            self.flags["constant"] = flag.CONSTANT
        network = self.oracle.logits_fn, images.x.shape[1:]
        if uses_gradients(*network, stochastic=self.oracle.stochastic):
            self.flags["gradients"] = flag.GRADIENTS
        if randomised or draws_on_host(*network, stochastic=self.oracle.stochastic):
            self.flags["randomised"] = flag.RANDOMISED
        self.wrong = np.concatenate(wrong)
        self._recall_clean(record)
        self.broken_at[self.wrong] = -1
        self.seconds["clean"] = time.perf_counter() - begin

    def _targets(self, e: Example, logits: np.ndarray) -> np.ndarray:
        """The classes that trials aim at, in their order, [B, T]."""
        if self.malt is None:
            return np.argsort(-logits, -1, kind="stable")[:, 1:10].astype(np.int32)
        candidates = min(100, self.num_classes - 1)
        options = {"norm": self.malt, "count": min(9, candidates), "candidates": candidates}
        return np.asarray(nearest_classes(self.oracle.logits_fn, e.x, e.y, **options))

    def _recall_clean(self, record: Record) -> None:
        fresh = []
        for n, (image, label, example) in enumerate(zip(self.images.x, self.images.y, self.images.ids, strict=True)):
            crc32 = checksum(image, label)
            known = record.entries.get((int(example), "clean", 0))
            if known is None:
                entry = {"id": int(example), "attack": "clean", "trial": 0, "robust": not bool(self.wrong[n])}
                fresh.append(({**entry, "forwards": self.oracle.eot_samples, "backwards": 0, "crc32": crc32}, None))
            elif known["crc32"] != crc32:
                raise InputError(f"the record was made with another image or label for id {example}")
            else:
                self.wrong[n] = not known["robust"]
        record.add(fresh)

    def attack(self, index: int, record: Record) -> None:
        """Runs one stage on what still stands, or takes its outcomes from the record."""
        begin = time.perf_counter()
        name, attack, trials = self.stages[index]
        rank = self.first_rank[index]
        work = []
        for trial in range(trials):
            for image, example in enumerate(self.images.ids):
                entry = record.entries.get((int(example), name, trial))
                if entry is None:
                    work.append((image, trial))
                    continue
                found = None if entry["robust"] else record.image(entry)
                zero, strange = (entry.get(name, False) for name in _RAISED)
                ticks = entry["forwards"] // (attack.forwards_per_tick * self.oracle.eot_samples)
                self._settle(index, Attempt(image, trial, found is not None, ticks, zero, strange, found))

        def wanted(image, trial):
            return rank + trial < self.broken_at[image]

        key = jax.random.fold_in(self.key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        settled = len(self.images.x) * trials - len(work)
        total = settled + sum(1 for pair in work if wanted(*pair))
        for attempts in run_all(
            attack, self.oracle, self.devices.replicate(key), self.images, work, wanted,
            batch_size=self.batch_size, devices=self.devices,
        ):  # fmt: skip
            for attempt in attempts:
                self._settle(index, attempt)
            record.add([(self._entry(index, attempt), attempt.x_adv) for attempt in attempts])
            settled += len(attempts)
            self.progress(name, settled, total, int((self.broken_at > rank).sum()))
        self.seconds[name] = time.perf_counter() - begin

    def _entry(self, index: int, attempt: Attempt) -> dict[str, Any]:
        name, attack, _ = self.stages[index]
        passes = attempt.ticks * self.oracle.eot_samples
        entry = {
            "id": int(self.images.ids[attempt.image]),
            "attack": name,
            "trial": attempt.trial,
            "robust": not attempt.success,
            "forwards": passes * attack.forwards_per_tick,
            "backwards": passes * attack.backwards_per_tick,
        }
        return entry | {name: True for name in _RAISED if getattr(attempt, name)}

    def _settle(self, index: int, attempt: Attempt) -> None:
        rank = self.first_rank[index] + attempt.trial
        self.ticks[attempt.image, rank] = attempt.ticks
        if attempt.success and rank < self.broken_at[attempt.image]:
            self.broken_at[attempt.image] = rank
            self.x_adv[attempt.image] = attempt.x_adv
        self.non_finite[attempt.image, rank] = attempt.non_finite
        dlr = getattr(self.stages[index].attack, "loss", "ce") != "ce"
        self.zero_gradient[attempt.image, rank] = attempt.zero_gradient and dlr

    def result(self) -> AutoAttackResult:
        """The outcome of the stages run so far."""
        n = len(self.images.x)
        names = np.asarray([s.name for s in self.stages for _ in range(s.trials)] + ["", "clean"])
        accuracy = {"clean": float(np.mean(self.broken_at >= 0))}
        for s, end in zip(self.stages, self.first_rank[1:], strict=True):
            accuracy[s.name] = float(np.mean(self.broken_at >= end))
        # Of the attempts that count: which others were made depends on how they met in batches.
        counted = np.arange(self.survived)[None, :] <= self.broken_at[:, None]
        zero, strange = (int((raised & counted).any(-1).sum()) for raised in (self.zero_gradient, self.non_finite))
        if zero:
            self.flags["zero_gradient"] = flag.ZERO_GRADIENT.format(zero, n)
        if strange:
            self.flags["non_finite"] = flag.NON_FINITE_LOGITS.format(strange, n, self.oracle.non_finite)
        drop = flag.masking(accuracy)
        if drop is not None:
            self.flags["masking"] = drop
        ticks = np.where(counted, self.ticks, 0) * self.oracle.eot_samples
        passes = [
            np.concatenate([[getattr(s.attack, kind)] * s.trials for s in self.stages]).astype(int)
            for kind in ("forwards_per_tick", "backwards_per_tick")
        ]
        return AutoAttackResult(
            robust=self.broken_at == self.survived,
            x_adv=self.x_adv,
            broken_by=names[self.broken_at],
            accuracy=accuracy,
            forwards=ticks @ passes[0] + self.oracle.eot_samples,
            backwards=ticks @ passes[1],
            seconds=self.seconds,
            flags=self.flags,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        k = self.num_classes
        for s in self.stages:
            if s.name in ("apgd_t", "fab_t") and k < 10:
                notes.append(f"{s.name}: {s.trials} target{'s' if s.trials > 1 else ''}, since there are {k} classes")
            if str(getattr(s.attack, "loss", "")).startswith("margin"):
                notes.append(f"{s.name}: margin loss, since {k} classes are too few for the DLR loss")
        return tuple(notes)
