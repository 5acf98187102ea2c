"""Running attacks over a data set: batches of one static size, over all devices, one outcome per example."""

from __future__ import annotations

import json
import os
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import compiling
from advjax.attacks import Stage, cascade
from advjax.attacks.autoattack import stage
from advjax.attacks.engine.flags import NOT_FINITE, PROBABILITIES, are_probabilities
from advjax.attacks.engine.inputs import check_labels, count_classes
from advjax.attacks.engine.loops import as_partial
from advjax.attacks.engine.record import Record
from advjax.data import Split, to_float
from advjax.errors import InputError
from advjax.evaluate.protocols import Attack, LogitsFn
from advjax.parallel import Devices

Progress = Callable[[int, int], None]


class Outcome(NamedTuple):
    """What an attack did to every example.

    Attributes:
        robust: [N] bool, whether the example is still classified correctly.
        seconds: wall-clock time of this call, compilation included.
        forwards: [N] forward passes.
        backwards: [N] backward passes.
        flags: reasons not to trust the number, a sentence each.
        notes: what was done otherwise than the name says, a sentence each.
    """

    robust: np.ndarray
    seconds: float
    forwards: np.ndarray
    backwards: np.ndarray
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of examples that are still classified correctly."""
        return float(self.robust.mean())


@compiling.jit
def _logits(logits_fn, x):
    return logits_fn(x)


def attack_key(seed: int, name: str) -> jax.Array:
    """The key of an attack, a function of the seed and the attack's name: no row depends on the rows before it."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def attack_dataset(
    logits_fn: LogitsFn,
    attack: Attack,
    split: Split,
    *,
    seed: int = 0,
    batch_size: int = 0,
    devices: Sequence[jax.Device] | None = None,
    surrogate: LogitsFn | None = None,
    progress: Progress = lambda done, total: None,
    record_path: str | os.PathLike[str] | None = None,
    network_hash: str | None = None,
) -> Outcome:
    """Attacks every example of a split.

    The outcome does not depend on the number of devices, on interruptions, and on `batch_size` only as far as rounding
    differs between programs of different shapes.

    Args:
        logits_fn: the network that is scored, evaluation mode.
        attack: what to run, with `craft` or `stages` (a row of kind `all_of` is made of others' outcomes).
        split: uint8 images and labels.
        seed: root of the attack's randomness.
        batch_size: examples at a time, rounded up to a multiple of the devices; the last batch is padded. 0: what
            suits the devices.
        devices: where to run; this host's if absent.
        surrogate: the network that the examples are crafted on, if another (transfer attack).
        progress: called with what is done and the total.
        record_path: file to which every outcome is appended as it is known; the same call again goes on from there.
        network_hash: names the weights, so that a record of others is refused.

    Raises:
        InputError: a bad batch size, a function that gives no logits, labels that are no classes of it, logits that
            are not finite on a clean image, a record of a different evaluation.
    """
    place = Devices(devices)
    batch_size = place.batch_size(batch_size)
    num_classes = count_classes(logits_fn, split.image.shape[1:])
    check_labels(split.label, num_classes)
    started = time.perf_counter()
    if attack.stages:
        if surrogate is not None:
            raise InputError(
                f"the attack {attack.name!r} is made of stages, which look at the network itself: it takes no surrogate"
            )
        stages = [stage(name, attack.norm, num_classes) for name in attack.stages]
        outcome = _run_stages(
            logits_fn, attack, stages, split, seed, batch_size, place, progress, record_path, network_hash
        )
    else:
        with compiling.for_devices(place.devices):
            outcome = _run_craft(
                logits_fn, attack, split, seed, batch_size, place, surrogate, progress, record_path, network_hash
            )
    return outcome._replace(seconds=time.perf_counter() - started)


def _run_stages(logits_fn, attack, stages, split, seed, batch_size, place, progress, record_path, network_hash):
    n = len(split.label)
    costs = {each.name: _cost(each) for each in stages}

    def whole(name: str, done: int, total: int) -> None:
        """The share of the cascade that is behind, as a number of images."""
        before = sum(list(costs.values())[: list(costs).index(name)])
        progress(int(n * (before + costs[name] * done / total) / sum(costs.values())), n)

    result = cascade(
        logits_fn,
        attack_key(seed, attack.name),
        np.asarray(to_float(split.image)),
        split.label,
        norm=attack.norm,
        eps=attack.radius,
        attacks=stages,
        batch_size=batch_size,
        devices=place.devices,
        progress=whole,
        record_path=record_path,
        network_hash=network_hash,
    )
    flags = tuple(f"{name}: {sentence}" for name, sentence in result.flags.items())
    return Outcome(result.robust, 0.0, result.forwards, result.backwards, flags, result.notes)


def _cost(stage: Stage) -> float:
    """Passes of an image that withstands the stage, a backward as two forwards."""
    attack = stage.attack
    return stage.trials * attack.ticks * (attack.forwards_per_tick + 2 * attack.backwards_per_tick)


def _run_craft(
    logits_fn, attack, split, seed, batch_size, place, surrogate, progress, record_path, network_hash
) -> Outcome:
    n = len(split.label)
    logits_fn = place.replicate(as_partial(logits_fn))
    source = logits_fn if surrogate is None else place.replicate(as_partial(surrogate))
    key = place.replicate(attack_key(seed, attack.name))
    record = Record(record_path, fingerprint(attack, seed, network_hash))
    robust, known, probabilities, not_finite = (np.zeros(n, bool) for _ in range(4))
    for (row, _, _), entry in record.entries.items():
        if row < n:  # a record may be of more examples than are asked for now
            robust[row], known[row] = entry["robust"], True
            probabilities[row], not_finite[row] = (entry.get(flag, False) for flag in ("probabilities", "not_finite"))
    passes = {"forwards": attack.forwards, "backwards": attack.backwards}
    try:
        for rows, padded in _batches(np.flatnonzero(~known), place.round_up(min(batch_size, n))):
            batch = (to_float(jnp.asarray(split.image[padded])), jnp.asarray(split.label[padded]), jnp.asarray(padded))
            x, y, ids = place.shard(batch)
            x_adv = attack.craft(source, key, x, y, ids)
            logits = np.asarray(_logits(logits_fn, x_adv), np.float32)[: len(rows)]
            finite = np.isfinite(logits).all(-1)
            if attack.name == "clean":
                if not finite.all():
                    first = rows[~finite][0]
                    raise InputError(f"the network gives logits that are NaN or infinite, first on test image {first}")
                probabilities[rows] = are_probabilities(logits)
            # What is not finite is no proof of an attack's success.
            robust[rows] = (np.argmax(logits, -1) == split.label[rows]) | ~finite
            known[rows], not_finite[rows] = True, ~finite
            flagged = {"probabilities": probabilities, "not_finite": not_finite}
            record.add((_entry(attack, i, bool(robust[i]), flagged, passes), None) for i in rows)
            progress(int(known.sum()), n)
    finally:
        record.close()
    flags: tuple[str, ...] = (f"probabilities: {PROBABILITIES}",) if n and probabilities.all() else ()
    flags += (f"not_finite: {NOT_FINITE.format(not_finite.sum(), n)}",) if not_finite.any() else ()
    return Outcome(robust, 0.0, np.full(n, attack.forwards), np.full(n, attack.backwards), flags)


def _entry(
    attack: Attack, i: int, robust: bool, flagged: Mapping[str, np.ndarray], passes: dict[str, int]
) -> dict[str, Any]:
    raised = {name: True for name, rows in flagged.items() if rows[i]}
    return {"id": int(i), "attack": attack.name, "trial": 0, "robust": robust, **passes, **raised}


def fingerprint(attack: Attack, seed: int, network_hash: str | None) -> dict[str, Any]:
    """Plain values that fix the outcome of an attack."""
    return {
        "attacks": {attack.name: attack.params},
        "norm": attack.norm,
        "eps": attack.radius,
        "seed": seed,
        "transfer": attack.transfer,
        "network": network_hash,
    }


def _batches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, rows padded by repetition to the static size) of every batch."""
    rows = rows.astype(np.int32)
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        yield batch, np.resize(batch, size)


def run_protocol(
    logits_fn: LogitsFn,
    attacks: Sequence[Attack],
    split: Split,
    *,
    directory: pathlib.Path | None = None,
    network_hash: str | None = None,
    surrogate: LogitsFn | None = None,
    on_start: Callable[[Attack, int], None] = lambda attack, total: None,
    on_done: Callable[[Attack, Outcome], None] = lambda attack, outcome: None,
    **options: Any,
) -> dict[str, Outcome]:
    """Runs the attacks of a protocol one after the other.

    Args:
        logits_fn: the network, evaluation mode.
        attacks: the protocol; transfer attacks are left out where there is no surrogate.
        split: uint8 images and labels.
        directory: where each attack's record is kept, so that an interrupted evaluation resumes; absent: nowhere.
        network_hash: names the weights.
        surrogate: the network that transfer attacks are crafted on.
        on_start: called before an attack with it and the number of examples.
        on_done: called after it with its outcome.
        **options: of `attack_dataset`: seed, batch_size, devices, progress.

    Returns:
        Name -> outcome, in the protocol's order.
    """
    outcomes: dict[str, Outcome] = {}
    for attack in attacks:
        if attack.transfer and surrogate is None:
            continue
        on_start(attack, len(split.label))
        if attack.all_of:
            parts = [outcomes[name] for name in attack.all_of]
            robust = np.logical_and.reduce([part.robust for part in parts])
            passes = [sum(getattr(part, kind) for part in parts) for kind in ("forwards", "backwards")]
            outcomes[attack.name] = Outcome(robust, sum(part.seconds for part in parts), *passes)
        else:
            outcomes[attack.name] = attack_dataset(
                logits_fn,
                attack,
                split,
                surrogate=surrogate if attack.transfer else None,
                record_path=record_file(directory, attack, options.get("seed", 0)),
                network_hash=network_hash,
                **options,
            )
        on_done(attack, outcomes[attack.name])
    return outcomes


def record_file(directory: pathlib.Path | None, attack: Attack, seed: int) -> pathlib.Path | None:
    """The file of an attack's record: other settings, another file."""
    if directory is None:
        return None
    settings = json.dumps(fingerprint(attack, seed, None), sort_keys=True)
    return directory / f"{attack.name.replace('@', '-')}-{zlib.crc32(settings.encode()):08x}.jsonl"


def per_example(outcomes: Mapping[str, Outcome]) -> Iterator[dict[str, Any]]:
    """One record per example: id, clean, the verdict of every attack, which broke it first, passes spent."""
    n = len(next(iter(outcomes.values())).robust)
    attacks = [name for name in outcomes if name != "clean"]
    for i in range(n):
        broken = next((name for name in outcomes if not outcomes[name].robust[i]), None)
        yield {
            "id": i,
            "clean": bool(outcomes["clean"].robust[i]),
            "attacks": {name: bool(outcomes[name].robust[i]) for name in attacks},
            "broken_by": broken,
            "forwards": int(sum(outcome.forwards[i] for outcome in outcomes.values())),
            "backwards": int(sum(outcome.backwards[i] for outcome in outcomes.values())),
        }
