"""How results print: what came out, in lines, instead of thousands of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from advjax.attacks.engine.loops import is_traced


def summary(result: Any) -> str:
    """A line on a result with a field `success` [B], and one on every field."""
    count = "" if is_traced(result) else f", {int(np.sum(result.success))} of {len(result.success)} images broken"
    fields = [f"    {name:<10} {value.dtype} {list(value.shape)}" for name, value in result._asdict().items()]
    return "\n".join([f"{type(result).__name__}{count}", *fields])


def table(result: Any) -> str:
    """An `AutoAttackResult`: accuracy after every attack, what each broke and took; flags and notes below."""
    n, broken = len(result.robust), [str(name) for name in result.broken_by]
    lines = [f"{'attack':<12} {'accuracy':>9} {'broken':>7} {'seconds':>8}"]
    for name, accuracy in result.accuracy.items():
        seconds = f"{result.seconds[name]:8.1f}" if name in result.seconds else ""
        lines.append(f"{name:<12} {accuracy:>9.2%} {broken.count(name):>7} {seconds}".rstrip())
    lines.append(
        f"{int(result.robust.sum())} of {n} images are robust; "
        f"{np.mean(result.forwards):,.0f} forwards and {np.mean(result.backwards):,.0f} backwards per image"
    )
    lines += [f"flag {name}: {sentence}" for name, sentence in result.flags.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])
