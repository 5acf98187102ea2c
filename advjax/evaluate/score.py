"""Scoring a network by a protocol: the rows of a report, a record of every example, and the terminal kept informed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from advjax.data import Split
from advjax.evaluate.attack_dataset import Outcome, per_example, run_protocol
from advjax.evaluate.protocols import Attack, LogitsFn
from advjax.evaluate.report import result_row, write_atomically
from advjax.training.log import Display


class Subject(NamedTuple):
    """The network that is scored.

    Attributes:
        name: of the network in its method, or what the user calls it.
        checkpoint: `"last"` or `"best"`; `"given"` for weights from elsewhere.
        logits_fn: evaluation mode.
        sha256: of its variables, or whatever tells its weights from others.
        dtype: precision of its computation.
    """

    name: str
    checkpoint: str
    logits_fn: LogitsFn
    sha256: str
    dtype: str


class Surrogate(NamedTuple):
    """The network that transfer attacks are crafted on."""

    name: str
    logits_fn: LogitsFn


def score(
    subject: Subject,
    attacks: Sequence[Attack],
    split: Split,
    *,
    protocol: str,
    directory: pathlib.Path,
    display: Display,
    seed: int,
    batch_size: int,
    devices: Sequence[jax.Device],
    surrogate: Surrogate | None = None,
) -> list[dict[str, Any]]:
    """Runs a protocol on a network.

    Outcomes are appended to records in `directory` as they are known, so that the same call again goes on from there;
    at the end one line per example lies in `directory/examples-PROTOCOL.jsonl`.

    Returns:
        One result row per attack, in the protocol's order.
    """
    where = f"{subject.name} ({subject.checkpoint})"
    rows: list[dict[str, Any]] = []
    accuracy: dict[str, float] = {}

    def on_start(attack: Attack, total: int) -> None:
        display.start(f"{where}: {attack.name}", total)

    def on_done(attack: Attack, outcome: Outcome) -> None:
        display.stop()
        accuracy[attack.name] = outcome.accuracy
        row = result_row(
            attack,
            outcome,
            accuracy["clean"],
            network=subject.name,
            checkpoint=subject.checkpoint,
            protocol=protocol,
            seed=seed,
            dtype=subject.dtype,
            device=f"{len(devices)} x {devices[0].device_kind}",
            surrogate=surrogate.name if surrogate else None,
        )
        rows.append(row)
        display.line(f"{where}: {attack.name:<14} {row['accuracy']:7.2%}  of {row['n']} images")

    outcomes = run_protocol(
        subject.logits_fn,
        attacks,
        split,
        directory=directory,
        network_hash=subject.sha256,
        surrogate=surrogate.logits_fn if surrogate else None,
        on_start=on_start,
        on_done=on_done,
        seed=seed,
        batch_size=batch_size,
        devices=devices,
        progress=display.update,
    )
    lines = "".join(json.dumps(example) + "\n" for example in per_example(outcomes))
    write_atomically(directory / f"examples-{protocol}.jsonl", lines)
    left_out = [attack.name for attack in attacks if attack.name not in outcomes]
    if left_out:
        display.line(f"{where}: left out for want of a surrogate network: {', '.join(left_out)}")
    return rows
