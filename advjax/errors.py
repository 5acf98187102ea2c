"""One kind of error for bad input: a single line that names the field and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The caller's input is wrong. The message is one line; the command line prints it and exits with 2."""


def unknown(kind: str, name: object, allowed: Iterable[str]) -> InputError:
    """An `InputError` for a name that no registry holds: the nearest names, and all there are unless they are many.

    Args:
        kind: what was asked for, e.g. `"network"` or `"config field"`.
        name: the name that was given.
        allowed: every name there is.
    """
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(name), allowed, n=3, cutoff=0.5)
    if near and len(allowed) > 24:
        return InputError(f"unknown {kind} {name!r}; did you mean {', '.join(near)}?")
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return InputError(f"unknown {kind} {name!r}; {hint}allowed: {', '.join(allowed) or 'none'}")
