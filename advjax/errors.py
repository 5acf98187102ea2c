"""One kind of error for bad input: a single line that names the field and what is allowed."""

from __future__ import annotations

import contextlib
import difflib
import reprlib
from collections.abc import Iterable, Iterator, Mapping


class InputError(ValueError):
    """The caller's input is wrong. The message is one line; the command line prints it and exits with 2.

    Args:
        message: the whole line, or what follows the field's name.
        field: the name of the argument that is wrong, which then begins the line. A caller that knows where the
            argument came from puts that before it (`within`).
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        # One line, whatever a file's name or somebody else's message holds.
        message = " ".join(message.split())
        super().__init__(message if field is None else f"{field} {message}")
        self.tail, self.field = message, field


class InUse(InputError):
    """Another process is at work on what was asked for; later it may be free."""


class Stopped(Exception):
    """A signal asked the process to end; what was done is saved, and the same call goes on from there.

    Args:
        signal: its number.
        message: what was saved, a line.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


class Gone(Exception):
    """Another process of the run (`advjax.hosts`) is gone, or failed; the message says which."""


@contextlib.contextmanager
def within(prefix: str) -> Iterator[None]:
    """Names the place of a field that is found wrong: inside `within("method.")`, `beta` becomes `method.beta`."""
    try:
        yield
    except InputError as error:
        if error.field is None:
            raise
        raise InputError(error.tail, prefix + error.field) from None


def shown(value: object) -> str:
    """How a message shows a value: not all of what may be a novel, or a number of more digits than Python writes."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    try:
        text = reprlib.repr(value) if isinstance(value, (Mapping, list, tuple, set)) else repr(value)
    except Exception:  # such a number inside, or an object that cannot say what it is
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def unknown(kind: str, name: object, allowed: Iterable[str], field: str | None = None) -> InputError:
    """An `InputError` for a name that no registry holds: the nearest names, and all there are unless they are many.

    Args:
        kind: what was asked for, e.g. `"network"` or `"config field"`.
        name: the name that was given.
        allowed: every name there is.
        field: the argument that held it, see `InputError`.
    """
    allowed = sorted(allowed)
    article = "an" if kind[0] in "aeiou" else "a"
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5) if isinstance(name, str) else []
    start = f"unknown {kind} {shown(name)}" if field is None else f"must be {article} {kind}, it is {shown(name)}"
    if near and len(allowed) > 24:
        return InputError(f"{start}; did you mean {', '.join(near)}?", field)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return InputError(f"{start}; {hint}allowed: {', '.join(allowed) or 'none'}", field)
