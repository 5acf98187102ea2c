"""Files that nobody ever sees half of."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from advjax.errors import InputError, shown


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a text file under another name, then renames it; an error has the file's name."""
    partial = path.with_name(path.name + ".partial")
    with named(path):
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Gives errors of the system the name of the file, or of its folder, where they have none, as those of writing."""
    try:
        yield
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def as_path(path: object, field: str) -> pathlib.Path:
    """A path that a user gave.

    Raises:
        InputError: it is none, or a name that no file can have.
    """
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path):
        raise InputError(f"{field} must be a path, it is {shown(path)}")
    return pathlib.Path(path)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file or folder of this name; False for names that no file can have, and where none may look."""
    try:
        return pathlib.Path(path).exists()
    except (OSError, ValueError):
        return False


def users_cache() -> pathlib.Path:
    """The folder for what can be had again: `advjax` in XDG_CACHE_HOME, or in `.cache` of the user's home."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(cache) / "advjax"


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file, indented."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(workdir: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """The JSON file `name` of a run's folder.

    Raises:
        InputError: there is none, or it is not a JSON object.
    """
    path = pathlib.Path(workdir) / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{workdir} is not the folder of a run: it has no {name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read: it holds no JSON object")
    return content
