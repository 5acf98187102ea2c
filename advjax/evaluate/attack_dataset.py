"""Running attacks over a data set: batches of one static size, over all devices, one outcome per example."""

from __future__ import annotations

import json
import os
import pathlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advjax import compiling, hosts
from advjax.attacks import Stage, cascade
from advjax.attacks.autoattack import stage
from advjax.attacks.engine.flags import CONSTANT, GRADIENTS, NON_FINITE_LOGITS, PROBABILITIES, are_probabilities
from advjax.attacks.engine.identity import identity, uses_gradients
from advjax.attacks.engine.inputs import NON_FINITE, check_choice, check_labels, count_classes
from advjax.attacks.engine.loops import as_partial
from advjax.attacks.engine.oracle import is_wrong
from advjax.attacks.engine.record import Record, checksum, merge
from advjax.data import Split, to_float
from advjax.errors import InputError
from advjax.evaluate.corruptions import SEVERITIES
from advjax.evaluate.protocols import Attack, LogitsFn, OwnLoss
from advjax.parallel import Devices
from advjax.seeds import check_seed

# Called with how many images are done, of how many, and how many of these still stand.
Progress = Callable[[int, int, int], None]
# Called with rows [B] of the split, what the network was shown there [B, H, W, C], and its logits [B, K].
Observe = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


class Outcome(NamedTuple):
    """What an attack did to every example.

    Attributes:
        robust: [N] bool, whether the example is still classified correctly.
        seconds: wall-clock time of this call, compilation included.
        forwards: [N] forward passes.
        backwards: [N] backward passes.
        flags: reasons not to trust the number, a sentence each.
        notes: what was done otherwise than the name says, a sentence each.
        confidence: [N] the largest probability of every example as it was scored, to six digits; NaN where it is not
            known, None for attacks that do not say.
    """

    robust: np.ndarray
    seconds: float
    forwards: np.ndarray
    backwards: np.ndarray
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    confidence: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """Share of examples that are still classified correctly."""
        return float(self.robust.mean())


@compiling.jit
def forward(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """`logits_fn(x)` as one program."""
    return logits_fn(x)


def attack_key(seed: int, name: str) -> jax.Array:
    """The key of an attack, a function of the seed and the attack's name: no row depends on the rows before it."""
    return jax.random.fold_in(jax.random.key(check_seed(seed)), zlib.crc32(name.encode()))


def attack_dataset(
    logits_fn: LogitsFn,
    attack: Attack,
    split: Split,
    *,
    seed: int = 0,
    batch_size: int = 0,
    devices: Sequence[jax.Device] | None = None,
    surrogate: LogitsFn | None = None,
    own_loss: OwnLoss | None = None,
    progress: Progress = lambda done, total, standing: None,
    record_path: str | os.PathLike[str] | None = None,
    network_hash: str | None = None,
    non_finite: str = "broken",
    observe: Observe | None = None,
) -> Outcome:
    """Attacks every example of a split.

    The outcome does not depend on the number of devices, on interruptions, and on `batch_size` only as far as rounding
    differs between programs of different shapes.

    Args:
        logits_fn: the network that is scored, evaluation mode.
        attack: what to run, with `craft` or `stages` (a row of kind `all_of` is made of others' outcomes).
        split: uint8 images and labels, at least one; the first `attack.examples` of them count if that is not 0, or what
            `attack.images` makes of them.
        seed: root of the attack's randomness, in 0..2**32-1.
        batch_size: examples at a time, rounded up to a multiple of the devices; the last batch is padded. 0: what
            suits the devices.
        devices: where to run; this process's if absent. If they are of several processes (`advjax.hosts`), all of them
            make this call, share the images out, and get the outcome of all; a record is in a folder that all see.
        surrogate: the network that the examples are crafted on, if another (transfer attack, `craft` only).
        own_loss: for a row with `attack.own_loss`: `(x', x, y) -> [B]`, the loss that it maximises, evaluation mode.
        progress: called with how many images are done, the total, and how many are not broken.
        record_path: file to which every outcome is appended as it is known; the same call again goes on from there.
            The file knows the network, by its weights or by its logits on fixed images, and refuses another one.
        network_hash: a name for the network beside that.
        non_finite: what NaN or infinite logits of an attacked image count as, `"broken"` or `"robust"` (flagged either
            way).
        observe: called with the rows, images and logits of every batch that is run (`craft` only); not for rows that the
            record knows.

    Raises:
        InputError: a bad seed or batch size, a function that gives no logits, images that are not uint8, labels that
            are no classes, logits that are not finite on a clean image, stages with a surrogate, a record of a
            different evaluation, network, surrogate or data; stages on several hosts without a record.
    """
    place = Devices(devices)
    batch_size, seed = place.batch_size(batch_size), check_seed(seed)
    check_choice(non_finite, "non_finite", NON_FINITE)
    if split.image.dtype != np.uint8 or split.image.ndim != 4 or not len(split.image):
        raise InputError(
            f"split must hold uint8 images [N, H, W, C], it holds {split.image.dtype} of shape {split.image.shape}"
        )
    split = split.first(attack.examples)
    split = attack.images(split) if attack.images else split
    num_classes = count_classes(logits_fn, split.image.shape[1:])
    check_labels(np.asarray(split.label), num_classes, len(split.image), "the split's labels")
    if surrogate is not None:
        count_classes(surrogate, split.image.shape[1:])
    if attack.own_loss and own_loss is None:
        raise InputError(f"must be given for {attack.name!r}, which maximises it", "own_loss")
    options = {
        "seed": seed, "batch_size": batch_size, "progress": progress, "record_path": record_path,
        "network_hash": network_hash, "non_finite": non_finite,
    }  # fmt: skip
    started = time.perf_counter()
    if record_path is not None:

        def join() -> None:
            """What several processes left in parts, whose call did not end."""
            merge(record_path, split.image.shape[1:] if attack.stages else None)

        hosts.by_first(join) if len(place.processes) > 1 else join()
    if attack.craft is not None:
        with compiling.scoring(place.devices):
            crafted_on = own_loss if attack.own_loss else surrogate
            outcome = _run_craft(logits_fn, crafted_on, attack, split, place, observe=observe, **options)
    elif not attack.stages:
        raise InputError(f"the attack {attack.name!r} is made of others' outcomes: run_protocol makes it")
    elif surrogate is not None:
        raise InputError(
            f"the attack {attack.name!r} is made of stages, which look at the network itself: it takes no surrogate"
        )
    else:
        stages = [stage(name, attack.norm, num_classes) for name in attack.stages]
        run = _share_stages if len(place.processes) > 1 else _run_stages
        outcome = run(logits_fn, attack, stages, split, place, **options)
    return outcome._replace(seconds=time.perf_counter() - started)


def _share_stages(logits_fn, attack, stages, split, place, *, progress, record_path, batch_size, **options) -> Outcome:
    """Every process attacks each so manieth image; then the first one goes through the record of all as if resuming."""
    if record_path is None:
        raise InputError("must be given where several hosts share the images of a cascade", "record_path")
    n, shape, own = len(split.label), split.image.shape[1:], place.own
    options |= {"record_path": record_path, "batch_size": -(-batch_size * len(own) // len(place))}
    if len(ids := _shared_out(n, place)):

        def of_all(done: int, total: int, *standing: int) -> None:
            progress(n * done // total, n, *(n - total + each for each in standing))

        share = split.select(ids)
        _run_stages(logits_fn, attack, stages, share, own, ids=ids, part=hosts.index(), progress=of_all, **options)
    hosts.gather(None)

    def whole() -> dict[str, Any]:
        merge(record_path, shape)
        outcome = _run_stages(logits_fn, attack, stages, split, own, progress=progress, **options)
        arrays = {name: getattr(outcome, name).tolist() for name in ("robust", "forwards", "backwards")}
        return arrays | {"flags": outcome.flags, "notes": outcome.notes}

    found = hosts.by_first(whole)
    robust, forwards, backwards = (np.asarray(found[name]) for name in ("robust", "forwards", "backwards"))
    return Outcome(robust, 0.0, forwards, backwards, tuple(found["flags"]), tuple(found["notes"]))


def _shared_out(n: int, place: Devices) -> np.ndarray:
    """The rows of this process: each so manieth, since hard images often follow each other."""
    return np.arange(n)[place.processes.index(hosts.index()) :: len(place.processes)]


def _run_stages(logits_fn, attack, stages, split, place, *, seed, progress, **options) -> Outcome:
    n = len(split.label)
    costs = {each.name: _cost(each) for each in stages}

    def whole(name: str, done: int, total: int, standing: int) -> None:
        """The share of the cascade that is behind, as a number of images."""
        before = sum(list(costs.values())[: list(costs).index(name)])
        progress(int(n * (before + costs[name] * done / total) / sum(costs.values())), n, standing)

    result = cascade(
        logits_fn,
        attack_key(seed, attack.name),
        to_float(np.asarray(split.image)),
        split.label,
        norm=attack.norm,
        eps=attack.radius,
        attacks=stages,
        devices=place.devices,
        progress=whole,
        **options,
    )
    flags = tuple(f"{name}: {sentence}" for name, sentence in result.flags.items())
    return Outcome(result.robust, 0.0, result.forwards, result.backwards, flags, result.notes)


def _cost(stage: Stage) -> float:
    """Passes of an image that withstands the stage, a backward as two forwards."""
    attack = stage.attack
    return stage.trials * attack.ticks * (attack.forwards_per_tick + 2 * attack.backwards_per_tick)


# What an example may raise beside its outcome; the first two say something of a clean row only, and of all examples.
_RAISED = {"probabilities": PROBABILITIES, "constant": CONSTANT, "non_finite": NON_FINITE_LOGITS}


def _run_craft(
    logits_fn, surrogate, attack, split, place, *, seed, batch_size, progress, record_path, network_hash, non_finite,
    observe=None,
) -> Outcome:  # fmt: skip
    n, shape = len(split.label), split.image.shape[1:]
    confidence = np.full(n, np.nan)
    several = len(place.processes) > 1
    mine, part = np.arange(n), None
    if several:
        mine, part, batch_size = _shared_out(n, place), hosts.index(), -(-batch_size * len(place.own) // len(place))
        place = place.own
    config = fingerprint(attack, seed, network_hash, non_finite)
    if record_path is not None:
        config |= identity(logits_fn, shape) | ({"surrogate": identity(surrogate, shape)} if surrogate else {})
    source = place.replicate(as_partial(surrogate or logits_fn))
    scored = place.replicate(as_partial(logits_fn)) if surrogate else source
    key = place.replicate(attack_key(seed, attack.name))
    record = Record(record_path, config, part=part)
    robust, known = np.zeros(n, bool), np.zeros(n, bool)
    raised = {name: np.zeros(n, bool) for name in _RAISED}
    made: list[dict[str, Any]] = []
    passes = {"forwards": attack.forwards, "backwards": attack.backwards}

    def recall(entries: Iterable[Mapping[str, Any]], others: bool = False) -> None:
        for entry in entries:
            row = entry["id"]
            if row < n:  # a record may be of more examples than are asked for now
                if not others and entry["crc32"] != checksum(split.image[row], split.label[row]):
                    raise InputError(f"the record was made with another image or label for id {row}")
                robust[row], known[row] = entry["robust"], True
                confidence[row] = entry.get("confidence", np.nan)
                for name in raised:
                    raised[name][row] = entry.get(name, False)

    try:
        recall(record.entries.values())
        for rows, padded in _batches(mine[~known[mine]], place.round_up(min(batch_size, max(len(mine), 1)))):
            images = split.image[padded]
            batch = (to_float(jnp.asarray(images)), jnp.asarray(split.label[padded]), jnp.asarray(padded))
            x, y, ids = place.shard(batch)
            x_adv = attack.craft(source, key, x, y, ids)
            logits = np.asarray(forward(scored, x_adv), np.float32)[: len(rows)]
            if observe is not None:
                observe(rows, np.asarray(x_adv)[: len(rows)], logits)
            wrong, raised["non_finite"][rows] = jax.device_get(is_wrong(logits, split.label[rows], non_finite))
            if attack.name == "clean":
                if raised["non_finite"][rows].any():
                    first = rows[raised["non_finite"][rows]][0]
                    raise InputError(f"logits_fn gives logits that are NaN or infinite, first on test image {first}")
                raised["probabilities"][rows] = are_probabilities(logits)
                raised["constant"][rows] = len(rows) > 1 and (logits == logits[0]).all()
            robust[rows], known[rows] = ~wrong, True
            confidence[rows] = np.round(_largest_probability(logits), 6)
            entries = [
                _entry(attack, i, robust, confidence, raised, passes, crc32)
                for i, crc32 in zip(rows, map(checksum, images, split.label[rows]), strict=False)
            ]
            record.add((entry, None) for entry in entries)
            made += entries
            progress(n * int(known[mine].sum()) // len(mine), n, n - int((known & ~robust).sum()))
    finally:
        record.close()
    if several:
        for entries in hosts.gather(made):
            recall(entries, others=True)
        if record_path is not None:
            hosts.by_first(lambda: merge(record_path))
    flags = [f"{name}: {_RAISED[name]}" for name in ("probabilities", "constant") if raised[name].all()]
    if attack.name == "clean" and uses_gradients(logits_fn, shape):
        flags.append(f"gradients: {GRADIENTS}")
    if raised["non_finite"].any():
        flags.append(f"non_finite: {NON_FINITE_LOGITS.format(raised['non_finite'].sum(), n, non_finite)}")
    return Outcome(robust, 0.0, np.full(n, attack.forwards), np.full(n, attack.backwards), tuple(flags), (), confidence)


def _largest_probability(logits: np.ndarray) -> np.ndarray:
    """Of the softmax of logits [B, K]; -> [B], NaN where they are not finite."""
    z = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return 1.0 / np.exp(z - z.max(-1, keepdims=True)).sum(-1)


def _entry(
    attack: Attack,
    i: int,
    robust: np.ndarray,
    confidence: np.ndarray,
    raised: Mapping[str, np.ndarray],
    passes: dict[str, int],
    crc32: int,
) -> dict[str, Any]:
    entry = {"id": int(i), "attack": attack.name, "trial": 0, "robust": bool(robust[i]), **passes}
    own: dict[str, Any] = {name: True for name, rows in raised.items() if rows[i]}
    own |= {} if np.isnan(confidence[i]) else {"confidence": float(confidence[i])}
    return entry | {"crc32": crc32} | own


def fingerprint(attack: Attack, seed: int, network_hash: str | None, non_finite: str) -> dict[str, Any]:
    """Plain values that fix the outcome of an attack on a network."""
    return {
        "attacks": {attack.name: attack.params},
        "norm": attack.norm,
        "eps": attack.radius,
        "seed": seed,
        "transfer": attack.transfer,
        "network": network_hash,
        "non_finite": non_finite,
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
    own_loss: OwnLoss | None = None,
    on_start: Callable[[Attack, int], None] = lambda attack, total: None,
    on_done: Callable[[Attack, Outcome], None] = lambda attack, outcome: None,
    **options: Any,
) -> dict[str, Outcome]:
    """Runs the attacks of a protocol one after the other.

    Args:
        logits_fn: the network, evaluation mode.
        attacks: the protocol; transfer attacks are left out where there is no surrogate, attacks on the method's own
            loss where there is none, and do not count where a row is made of others.
        split: uint8 images and labels.
        directory: where each attack's record is kept, so that an interrupted evaluation resumes; absent: nowhere.
        network_hash: a name for the network beside what the records know of it.
        surrogate: the network that transfer attacks are crafted on.
        own_loss: what rows with `Attack.own_loss` maximise, see `attack_dataset`.
        on_start: called before an attack with it and the number of examples.
        on_done: called after it with its outcome.
        **options: of `attack_dataset`: seed, batch_size, devices, progress, non_finite.

    Returns:
        Name -> outcome, in the protocol's order.
    """
    outcomes: dict[str, Outcome] = {}
    for attack in attacks:
        if (attack.transfer and surrogate is None) or (attack.own_loss and own_loss is None):
            continue
        count = min(attack.examples or len(split.label), len(split.label))
        on_start(attack, count * SEVERITIES if attack.images else count)
        if attack.all_of:
            parts = [outcomes[name] for name in attack.all_of if name in outcomes]
            robust = np.logical_and.reduce([part.robust for part in parts])
            passes = [sum(getattr(part, kind) for part in parts) for kind in ("forwards", "backwards")]
            outcomes[attack.name] = Outcome(robust, sum(part.seconds for part in parts), *passes)
        else:
            outcomes[attack.name] = attack_dataset(
                logits_fn,
                attack,
                split,
                surrogate=surrogate if attack.transfer else None,
                own_loss=own_loss,
                record_path=record_file(directory, attack, options.get("seed", 0), options.get("non_finite", "broken")),
                network_hash=network_hash,
                **options,
            )
        on_done(attack, outcomes[attack.name])
    return outcomes


def record_file(
    directory: pathlib.Path | None, attack: Attack, seed: int, non_finite: str = "broken"
) -> pathlib.Path | None:
    """The file of an attack's record: other settings, another file."""
    if directory is None:
        return None
    settings = json.dumps(fingerprint(attack, seed, None, non_finite), sort_keys=True)
    return directory / f"{attack.name.replace('@', '-')}-{zlib.crc32(settings.encode()):08x}.jsonl"


def per_example(outcomes: Mapping[str, Outcome]) -> Iterator[dict[str, Any]]:
    """One record per example: id, clean, the verdict of every attack on it, which broke it first, passes spent.

    Corrupted images, several for every example, are left out.
    """
    n = len(outcomes["clean"].robust)
    outcomes = {name: outcome for name, outcome in outcomes.items() if len(outcome.robust) <= n}
    for i in range(n):
        own = {name: outcome for name, outcome in outcomes.items() if i < len(outcome.robust)}
        yield {
            "id": i,
            "clean": bool(own["clean"].robust[i]),
            "attacks": {name: bool(outcome.robust[i]) for name, outcome in own.items() if name != "clean"},
            "broken_by": next((name for name, outcome in own.items() if not outcome.robust[i]), None),
            "forwards": int(sum(outcome.forwards[i] for outcome in own.values())),
            "backwards": int(sum(outcome.backwards[i] for outcome in own.values())),
        }
