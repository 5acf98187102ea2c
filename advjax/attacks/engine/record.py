"""The per-example record of an evaluation: written as results are known, read again by an interrupted run."""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from advjax.attacks.engine.identity import same_logits
from advjax.errors import InputError
from advjax.files import as_path

FORMAT = "advjax-record-2"


class Record:
    """An append-only file of one JSON object per line, and beside it the adversarial images that were found.

    The first line holds the configuration. Every other line is one attempt on one image: `id`, `attack`, `trial`
    (restart or target), `robust`, `forwards`, `backwards`, and `row`, the place of its image in `PATH.x_adv` (float32,
    one after the other), if it broke. An image is written before its line, so a line is never without its image; what
    a kill leaves half written, a last line or an image without line, is cut off when the record is opened.

    Args:
        path: the file; None keeps nothing.
        config: plain values that fix the outcome. A record of another configuration is refused.
        image_shape: (H, W, C); None keeps no images.
        part: what is known is read from `path`, but new entries go to a file of their own beside it, one for each such
            number, so that several processes add to one record at once (`merge`).

    Raises:
        InputError: the file is no record, or one of a different configuration.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        config: Mapping[str, Any],
        image_shape: tuple[int, ...] | None = None,
        part: int | None = None,
    ):
        self.entries: dict[tuple[int, str, int], dict[str, Any]] = {}
        self.image_shape = image_shape
        self._file: BinaryIO | None = None
        self._images: BinaryIO | None = None
        self._known_images: pathlib.Path | None = None
        self._rows = 0
        if path is None:
            return
        path = pathlib.Path(path)
        images = _images_of(path)
        config = json.loads(json.dumps(config))
        lines = _whole_lines(path)
        if lines:
            _check_config(path, lines[0], config)
        for number, line in enumerate(lines[1:], start=2):
            try:
                entry = json.loads(line)
                self.entries[entry["id"], entry["attack"], entry["trial"]] = entry
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}, line {number}, is no entry of a record") from None
            self._rows += "row" in entry
        stored = images.stat().st_size if images.exists() else 0
        if stored < self._rows * self._image_bytes:
            raise InputError(f"{images} lacks images that {path} names: delete both to start again")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known_images = images
        ends = sum(len(line) + 1 for line in lines), self._rows * self._image_bytes
        if part is not None:
            path, lines, ends, self._rows = _part(path, part), [], (0, 0), 0
            images = _images_of(path)
        self._file = _open_at(path, ends[0])
        self._images = None if image_shape is None else _open_at(images, ends[1])
        if not lines:
            self._write([{"format": FORMAT, "config": config}])

    @property
    def _image_bytes(self) -> int:
        return 0 if self.image_shape is None else 4 * int(np.prod(self.image_shape))

    def image(self, entry: Mapping[str, Any]) -> np.ndarray:
        """The adversarial image of an entry that was in the record when it was opened."""
        assert self._known_images is not None
        at = entry["row"] * self._image_bytes
        return np.fromfile(self._known_images, "<f4", self._image_bytes // 4, offset=at).reshape(self.image_shape)

    def add(self, entries: Iterable[tuple[dict[str, Any], np.ndarray | None]]) -> None:
        """Appends entries, each with its adversarial image or None."""
        if self._file is None:
            return
        lines = []
        for entry, image in entries:
            if image is not None and self._images is not None:
                self._images.write(np.ascontiguousarray(image, "<f4").tobytes())
                entry = {**entry, "row": self._rows}
                self._rows += 1
            lines.append(entry)
        if self._images is not None:
            self._images.flush()
        self._write(lines)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        assert self._file is not None
        self._file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file.flush()

    def close(self) -> None:
        """Closes the files."""
        for file in (self._file, self._images):
            if file is not None:
                file.close()


def _images_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".x_adv")


def _part(path: pathlib.Path, number: int) -> pathlib.Path:
    return path.with_name(f"{path.name}.part-{number}")


def merge(path: str | os.PathLike, image_shape: tuple[int, ...] | None = None) -> None:
    """Adds to a record what several processes wrote in parts, in the order of these, and removes them.

    Killed in between, it takes up the rest when it is called again.

    Args:
        path: the record's file; created if need be.
        image_shape: as of the record.

    Raises:
        InputError: a part of another evaluation or network than the record.
    """
    path = as_path(path, "path")
    found = {file.name.removesuffix(".x_adv") for file in path.parent.glob(f"{path.name}.part-*")}
    for name in sorted(found, key=lambda name: int(name.rpartition("-")[2])):
        part = path.with_name(name)
        if lines := _whole_lines(part):
            config = json.loads(lines[0])["config"]
            whole, share = Record(path, config, image_shape), Record(part, config, image_shape)
            share.close()
            fresh = [entry for place, entry in share.entries.items() if place not in whole.entries]
            whole.add((entry, share.image(entry) if "row" in entry else None) for entry in fresh)
            whole.close()
        for file in (part, _images_of(part)):
            file.unlink(missing_ok=True)


def _open_at(path: pathlib.Path, size: int) -> BinaryIO:
    """The file for reading and appending, cut to `size` bytes."""
    path.touch()
    file = path.open("r+b")
    file.truncate(size)
    file.seek(0, os.SEEK_END)
    return file


def _whole_lines(path: pathlib.Path) -> list[bytes]:
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]


def _check_config(path: pathlib.Path, line: bytes, config: Mapping[str, Any]) -> None:
    try:
        header = json.loads(line)
        known = header["format"] == FORMAT
        old = header["config"]
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path} is no record of an evaluation")
    for field in sorted({*old, *config}):
        if field in ("weights", "probe", "surrogate"):
            if not _same_network(old.get(field), config.get(field)):
                whose = "surrogate" if field == "surrogate" else "network"
                raise InputError(
                    f"{path} is the record of another {whose}, with other weights; name another file, or delete it"
                )
        elif old.get(field) != config.get(field):
            raise InputError(
                f"{path} is the record of a different evaluation: its {field} is {old.get(field)!r}, "
                f"this one's {config.get(field)!r}; name another file, or delete it"
            )


def _same_network(old: Any, new: Any) -> bool:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same_network(old[name], new[name]) for name in old)
    return same_logits(old, new) if isinstance(old, list) and isinstance(new, list) else old == new


def checksum(image: np.ndarray, label: int) -> int:
    """Of an image and its label, by which an entry of a record knows them again."""
    return zlib.crc32(np.ascontiguousarray(image).tobytes(), int(label))


def read_record(path: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """What a record says of every image, finished or not.

    Args:
        path: the record's file.

    Returns:
        By id: `clean` (whether it was classified correctly), `attacks` (name -> whether it survived what was tried),
        `broken_by` (the first attack in the order of the evaluation, `"clean"`, or None), `forwards` and `backwards`
        (up to the attempt that broke it).

    Raises:
        InputError: the file is no record.
    """
    path = as_path(path, "path")
    lines = _whole_lines(path)
    if not lines:
        raise InputError(f"{path} is no record of an evaluation")
    config = json.loads(lines[0]).get("config", {})
    _check_config(path, lines[0], config)
    order = {name: i for i, name in enumerate(["clean", *config.get("attacks", {})])}
    entries = sorted(map(json.loads, lines[1:]), key=lambda entry: (order[entry["attack"]], entry["trial"]))
    images: dict[int, dict[str, Any]] = {}
    for entry in entries:
        image = images.setdefault(
            entry["id"], {"clean": None, "attacks": {}, "broken_by": None, "forwards": 0, "backwards": 0}
        )
        if image["broken_by"] is not None:
            continue
        if entry["attack"] == "clean":
            image["clean"] = entry["robust"]
        else:
            image["attacks"][entry["attack"]] = entry["robust"]
        image["broken_by"] = None if entry["robust"] else entry["attack"]
        image["forwards"] += entry["forwards"]
        image["backwards"] += entry["backwards"]
    return images
