"""Files that nobody ever sees half of."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from advjax.errors import InputError


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a text file under another name, then renames it."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file or folder of this name; False for names that no file can have, and where none may look."""
    try:
        return pathlib.Path(path).exists()
    except (OSError, ValueError):
        return False


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
