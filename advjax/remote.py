"""Addresses such as gs://bucket/data.npz and s3://bucket/run, beside paths: what lies there is copied to this machine.

The interface is fsspec's, which Orbax and TFDS use, too. Whoever has a bucket installs its package: gcsfs for gs://, s3fs
for s3://; credentials are found as those packages find them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock

from advjax.errors import InputError
from advjax.files import users_cache

# What stores say of an object that changes with its content, each under a name of its own.
_VERSION = ("size", "ETag", "etag", "md5", "generation", "mtime", "LastModified", "updated", "created")


def is_address(place: str | os.PathLike[str]) -> bool:
    """Whether a name is an address, not a path; one that went through `pathlib` has lost a slash."""
    return re.match(r"[\w+.-]{2,}:/", os.fspath(place)) is not None


class Store:
    """The files at an address and below it, by their names relative to it; `""` is the address itself."""

    def __init__(self, address: str | os.PathLike[str], field: str) -> None:
        """Nothing is asked of the store yet.

        Args:
            address: where the files are, `PROTOCOL://...`.
            field: what the user calls it, for messages.

        Raises:
            InputError: no such protocol, or its package is not installed.
        """
        # Loading it takes as long as NumPy does, and most runs have no addresses.
        from fsspec.core import url_to_fs

        self.address = re.sub(r":/(?!/)", "://", os.fspath(address).rstrip("/"), count=1)
        self.field = field
        self.name = self.address.rpartition("/")[2]
        try:
            # Others write there, too, so no listing may be remembered; a folder of this machine must be made.
            options = {"auto_mkdir": True} if self.address.startswith("file://") else {}
            self._fs, self._root = url_to_fs(self.address, use_listings_cache=False, **options)
        except ImportError as error:
            package = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}.get(self.address.partition("://")[0], "its package")
            raise InputError(f"{field}: {self.address} needs {package} (pip install {package}): {error}") from None
        except ValueError as error:
            raise InputError(f"{field}: {self.address}: {error}; allowed: a path, gs://..., s3://...") from None

    def find(self) -> dict[str, str]:
        """Name of every file -> what changes with its content; empty if there is nothing."""
        with self.reached():
            try:
                info = self._fs.info(self._root)
            except FileNotFoundError:
                return {}
            if info["type"] == "file":
                return {"": _version(info)}
            files = self._fs.find(self._root, detail=True)
        found = {path[len(self._root) :].lstrip("/"): info for path, info in files.items() if info["type"] == "file"}
        if stray := [name for name in found if {"..", ""} & set(name.split("/"))]:
            raise InputError(f"{self.field}: {self.address} holds {stray[0]!r}, which is no file's name here")
        return {name: _version(found[name]) for name in sorted(found)}

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        with self.reached():
            try:
                return self._fs.cat_file(self._at(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Puts a file, whole: stores of objects show it once all of it is there."""
        with self.reached():
            self._fs.pipe_file(self._at(name), content)

    def get(self, names: Sequence[str], folder: pathlib.Path) -> None:
        """Copies files into a folder."""
        targets = [folder / name for name in names]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        with self.reached():
            self._fs.get([self._at(name) for name in names], [str(target) for target in targets])

    def put(self, names: Sequence[str], folder: pathlib.Path) -> None:
        """Copies files of a folder there, each as `write` does.

        Raises:
            FileNotFoundError: one is gone from the folder.
        """
        with self.reached():
            self._fs.put([str(folder / name) for name in names], [self._at(name) for name in names])

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self.reached(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Makes one kind of error of all that the packages raise where a store cannot be reached, or says no."""
        try:
            yield
        except InputError:
            raise
        except OSError as error:
            if error.filename and not is_address(error.filename):  # this machine's
                raise
            raise self._failed(error) from error
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OSError:
        said = " ".join(str(error).split())[:300] or "no reason given"
        return OSError(errno.EIO, f"{type(error).__name__}: {said}", self.address)


def _version(info: Mapping[str, Any]) -> str:
    return json.dumps([str(info.get(name)) for name in _VERSION])


def local(place: str | os.PathLike[str], field: str) -> pathlib.Path:
    """The path of a file or folder: of an address, that of a copy in the user's cache folder.

    What has not changed there since it was copied is not copied again. The copies, in `fetched/` of the cache folder
    (`files.users_cache`), are never written to, and may be removed when no process reads them.

    Args:
        place: a path or an address.
        field: what the user calls it, for messages.

    Raises:
        InputError: there is nothing at an address, or it cannot be read.
    """
    if not is_address(place):
        return pathlib.Path(place)
    store = Store(place, field)
    try:
        files = store.find()
        if not files:
            raise InputError(f"{field}: there is nothing at {store.address}")
        version = hashlib.sha256(json.dumps([store.address, files]).encode()).hexdigest()[:16]
        folder = users_cache() / "fetched" / version
        target = folder / store.name
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if not target.exists():
                _fetch(store, list(files), target)
    except OSError as error:
        where = "" if error.filename == store.address else f" ({error.filename})"
        raise InputError(f"{field}: {store.address} cannot be read: {error.strerror or error}{where}") from None
    return target


def _fetch(store: Store, names: Sequence[str], target: pathlib.Path) -> None:
    """Copies all or nothing."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if list(names) == [""]:
        partial.mkdir()
        store.get([""], partial / store.name)
        os.replace(partial / store.name, target)
        partial.rmdir()
    else:
        store.get(names, partial)
        os.replace(partial, target)
