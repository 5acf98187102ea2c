"""Objects from outside this library by name: `package.module:Object`, or what an installed package registers.

A package registers a name under `[project.entry-points."advjax.KINDs"]`, e.g.
`"advjax.networks" = {my_net = "my_package.my_file:MyNet"}`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from advjax.errors import InputError, unknown


def is_reference(name: object) -> bool:
    """Whether a name is of the form `package.module:Object`."""
    return isinstance(name, str) and ":" in name


def registered(kind: str) -> dict[str, str]:
    """Name -> `package.module:Object` of what installed packages register, sorted.

    Args:
        kind: "network", "method", "dataset", "protocol", "schedule", "writer", "attack", ...
    """
    found = importlib.metadata.entry_points(group=f"advjax.{kind}s")
    return {entry.name: entry.value for entry in sorted(found, key=lambda entry: entry.name)}


def resolve(name: str, kind: str, known: Iterable[str] = ()) -> Any:
    """The object that a name stands for; its module is imported, from the current directory if it is found there alone.

    Args:
        name: `package.module:Object` (dots in Object reach into classes), or a name in `registered(kind)`.
        kind: what the object is to be, see `registered`; messages speak of it.
        known: the library's own names of that kind, which a message about an unknown name lists too.

    Raises:
        InputError: no such name, module or object, or importing the module fails; one line.
    """
    if not is_reference(name):
        references = registered(kind)
        if name not in references:
            raise unknown(kind, name, {*known, *references})
        name, what = references[name], f"{kind} {name} ({references[name]})"
    else:
        what = f"{kind} {name}"
    module_name, _, path = name.partition(":")
    parts = path.split(".")
    if not all(part.isidentifier() for part in (*module_name.split("."), *parts)):
        raise InputError(f"{what}: a name from outside has the form package.module:Object")
    found: Any = _module(module_name, what)
    for i, part in enumerate(parts):
        if not hasattr(found, part):
            holder = ".".join([module_name, *parts[:i]])
            raise unknown(f"object of {holder} ({kind})", part, (n for n in dir(found) if not n.startswith("_")))
        found = getattr(found, part)
    return found


def call(made_by: Any, what: str, *args: Any, **kwargs: Any) -> Any:
    """`made_by(*args, **kwargs)`, where a failure of an object from outside is one line.

    Args:
        made_by: what `resolve` gave.
        what: what messages call it, `"schedule my_file:halves"`.
        *args: handed on.
        **kwargs: handed on.

    Raises:
        InputError: the call fails; an `InputError` of its own passes through.
    """
    try:
        return made_by(*args, **kwargs)
    except InputError:
        raise
    except Exception as error:  # a foreign object can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{what} failed: {reason}") from error


def reference(target: Any) -> str:
    """`package.module:Object` of a class or function, such that `resolve` gives it back.

    Raises:
        InputError: it stands where no import finds it: in a function, a notebook or a script that runs.
    """
    name = f"{getattr(target, '__module__', None)}:{getattr(target, '__qualname__', '<nameless>')}"
    module_name, _, path = name.partition(":")
    found: Any = sys.modules.get(module_name) if module_name != "__main__" else None
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not target:
        raise InputError(f"{name} cannot be imported by that name: define it at the top of a module of its own")
    return name


def _module(name: str, what: str) -> ModuleType:
    with _current_directory_last():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            absent = error.name or name
            if f"{name}.".startswith(f"{absent}."):
                hint = "it must be installed, or lie in the current directory or on PYTHONPATH"
                raise InputError(f"{what}: there is no module {absent}; {hint}") from None
            raise InputError(f"{what}: importing {name} needs the module {absent}, which is not installed") from None
        except (Exception, SystemExit) as error:  # a foreign module can fail in any way
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            where = f"{os.path.basename(place.filename)}, line {place.lineno}"
            raise InputError(f"{what}: importing {name} failed ({where}): {reason}") from error


@contextmanager
def _current_directory_last() -> Iterator[None]:
    # `python -m` has it on the path anyway, a console script has not.
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
