"""What a compiled program says, as plain values: memory, arithmetic, traffic, collectives, copies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

from advjax.aot.chips import Chip
from advjax.aot.hlo import KINDS, Part, Program
from advjax.aot.programs import Task

LOW_EFFORT = {"exec_time_optimization_effort": -1.0}


class DoesNotFit(Exception):
    """The program wants more memory than the chip has."""


def compile_task(task: Task, chip: Chip, *, low_effort: bool = True) -> tuple[dict[str, Any], str]:
    """Compiles a program.

    Args:
        task: which.
        chip: what it is for.
        low_effort: seconds to a minute a program, with nearly the same memory and structure; the compiler's estimates of
            cycles mean something only without.

    Returns:
        What `describe` says of it, with the seconds that it took, and the program's text.

    Raises:
        DoesNotFit: in the chip's memory.
    """
    started = time.perf_counter()
    try:
        compiled = task.lower().compile(compiler_options=LOW_EFFORT if low_effort and chip.platform == "tpu" else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFit(str(error).splitlines()[0]) from error
        raise
    seconds, text = time.perf_counter() - started, compiled.as_text()
    row = describe(task, chip, compiled, Program(text))
    if row["peak_bytes"] > chip.usable:
        raise DoesNotFit(f"{row['peak_bytes'] / 2**20:,.0f} MiB of {chip.usable / 2**20:,.0f}")
    return {**row, "compile_seconds": round(seconds, 1)}, text


def describe(task: Task, chip: Chip, compiled: Any, program: Program) -> dict[str, Any]:
    """Plain values, all of one device and one call.

    A call is one training step, one forward, or the iterations of an attack between two looks of the host. `loops` are
    those with arithmetic in them, the attack's; times are what the chip's published peaks allow.
    """
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    entry = program.entry
    totals = _Totals(task.trips)
    totals.add(entry, 1)
    loops = [loop for part in entry.all() for loop in part.loops if loop.body.products]
    inside = [part for loop in loops for part in loop.body.all()]
    counted = task.arithmetic()
    arithmetic = sum(chip.seconds(flops, *kind) for kind, flops in totals.flops.items())
    # Of what XLA merged or left out nothing need be computed; what it repeats is its own affair.
    share = min(counted / totals.all_flops, 1.0) if totals.all_flops else 1.0
    moved = sum(totals.moved.values())
    traffic = moved / chip.bandwidth
    return {
        "program": task.name,
        "batch": task.batch,
        "peak_bytes": peak,
        "temporary_bytes": memory.temp_size_in_bytes,
        "share_of_memory": peak / chip.usable,
        "flops_counted": counted,
        "flops": totals.all_flops,
        "flops_xla_loops_once": float(cost.get("flops", 0.0)),
        "products": {" ".join(kind): flops for kind, flops in sorted(totals.flops.items())},
        "convolutions": _kinds(p.dtype for part in entry.all() for p in part.products if p.window),
        "bytes": moved,
        "bytes_by_kind": {kind: totals.moved[kind] for kind in KINDS if totals.moved[kind]},
        "bytes_in_loops": sum(_trips(loop, task) * _bytes(loop.body) for loop in loops),
        "arithmetic_seconds": arithmetic * share,
        "traffic_seconds": traffic,
        "roofline_seconds": max(arithmetic * share, traffic),
        "cycles_by_kind": {kind: totals.cycles[kind] for kind in KINDS if totals.cycles[kind]},
        "collectives": dict(totals.collectives),
        "collectives_in_loops": dict(sum((part.collectives for part in inside), Counter())),
        "loops": [
            {
                "trips": loop.trips or task.trips,
                "operations": loop.body.operations,
                "products": len(loop.body.products),
                "bytes": _bytes(loop.body),
                "copies": [len(loop.body.copies), sum(loop.body.copies)],
                "casts": [len(loop.body.casts), sum(loop.body.casts)],
                "loops": len(loop.body.loops),
            }
            for loop in loops
        ],
        "loops_without_products": [
            loop.trips for part in entry.all() for loop in part.loops if not any(p.products for p in loop.body.all())
        ],
        "copies": [len(entry.copies), sum(entry.copies)],
        "casts": [len(entry.casts), sum(entry.casts)],
        "host_transfers": sum(part.host for part in entry.all()),
        "float64": "f64" in program.types,
    }


class _Totals:
    """Sums over a call, loops counted in full; those whose number of turns depends on the data once."""

    def __init__(self, trips: int) -> None:
        self.trips = trips
        self.moved: Counter[str] = Counter()
        self.cycles: Counter[str] = Counter()
        self.flops: Counter[tuple[str, str]] = Counter()
        self.collectives: Counter[str] = Counter()

    @property
    def all_flops(self) -> float:
        return float(sum(self.flops.values()))

    def add(self, part: Part, times: int) -> None:
        for total, own in ((self.moved, part.moved), (self.cycles, part.cycles), (self.collectives, part.collectives)):
            total.update({kind: times * count for kind, count in own.items()})
        for product in part.products:
            self.flops[product.dtype, product.precision] += times * product.flops  # type: ignore[assignment]
        for loop in part.loops:
            self.add(loop.body, times * (loop.trips or (self.trips if loop.body.products else 1)))


def _trips(loop: Any, task: Task) -> int:
    return loop.trips or task.trips


def _bytes(part: Part) -> int:
    return part.bytes + sum((loop.trips or 1) * _bytes(loop.body) for loop in part.loops)


def _kinds(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


HEADER = (
    "program", "batch", "peak MiB", "of chip", "GFLOP counted", "GFLOP compiled", "GB moved", "arithmetic ms",
    "traffic ms", "collectives (in loops)", "convolutions", "copies in loops", "host", "compile s",
)  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table, as `HEADER` names its columns; all of one chip and call."""
    inside = row["collectives_in_loops"]
    copies = [loop["copies"] for loop in row["loops"]]
    return (
        row["program"],
        f"{row['batch']:,}",
        f"{row['peak_bytes'] / 2**20:,.0f}",
        f"{row['share_of_memory']:.0%}",
        f"{row['flops_counted'] / 1e9:,.0f}",
        f"{row['flops'] / 1e9:,.0f}",
        f"{row['bytes'] / 1e9:.3g}",
        f"{row['arithmetic_seconds'] * 1e3:.3g}",
        f"{row['traffic_seconds'] * 1e3:.3g}",
        f"{sum(row['collectives'].values())} ({sum(inside.values())})",
        ", ".join(f"{count} {dtype}" for dtype, count in row["convolutions"].items()) or "none",
        f"{sum(c[0] for c in copies)} ({sum(c[1] for c in copies) / 2**20:.3g} MiB)" if copies else "-",
        str(row["host_transfers"]),
        f"{row['compile_seconds']:.0f}",
    )


def largest_batch(peak: Callable[[int], int | None], first: int, multiple: int, room: int, most: int) -> int:
    """The largest batch that fits, to a sixteenth; 0 if the first does not.

    Memory is nearly a line in the batch, so two compilations say where to look, and the rest is bisection.

    Args:
        peak: batch -> bytes on one chip, None where it does not fit.
        first: where to begin.
        multiple: of which every batch is one.
        room: bytes of the chip.
        most: no batch is larger, a training set having no more.
    """
    most = most // multiple * multiple
    used = peak(first)
    if used is None:
        return 0
    fits, fails, guess, failed = first, most + multiple, 2 * first, False
    while fails - fits > max(fits // 16, multiple):
        guess = min(max(guess // multiple * multiple, fits + multiple), fails - multiple)
        found = peak(guess)
        if found is None:
            # The line was a little too high, most often.
            fails, guess, failed = guess, max((fits + guess) // 2, guess - guess // 16), True
            continue
        slope = (found - used) / (guess - fits)
        fits, used = guess, found
        line = int(fits + 0.97 * (room - used) / slope) if slope > 0 else most
        line = max(line, fits + fits // 16)
        guess = line if line < fails or not failed else (fits + fails) // 2
    return fits
