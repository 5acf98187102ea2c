"""Image folders: ImageNet's layout and Tiny-ImageNet's own."""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from advjax.data.base import Dataset, Split, check_equal_shapes, check_labels, stack_images
from advjax.data.pictures import Cut, Pictures
from advjax.errors import InputError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
# Cameras put small copies behind the picture into a JPEG: those are no animations.
_ANIMATED = ("PNG", "WEBP", "TIFF", "GIF")
_GREY = {"1", "L", "LA"}

_Listing = list[tuple[pathlib.Path, int]]


def read(
    name: str,
    path: pathlib.Path,
    num_classes: int | None = None,
    cut: Cut = Cut(),
    streams: Callable[[int, tuple[int, ...]], bool] = lambda count, shape: False,
) -> Dataset:
    """Reads a folder of images into main memory (a hundred thousand 64x64x3 images are 1.2 GB), or lists it only.

    ImageNet's layout: `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, or `val/` in place of a missing `test/`; images may
    lie deeper below their class. Tiny-ImageNet's: `train/CLASS/images/*.JPEG`, `val/images/*.JPEG` and
    `val/val_annotations.txt` (its unlabelled `test/` is left alone). Classes are the folders of `train/` in sorted
    order. Images are RGB, or grey with one channel if every one of them is grey; transparency is dropped. Hidden files
    and folders (`._a.jpg`) are passed over; everything else that is not read is named in a warning. Only regular files
    are opened.

    Args:
        name: name of the resulting data set.
        path: the folder with `train/` in it.
        num_classes: number of classes, if it is not the number of folders.
        cut: resize and crop every image; without a size they must all be of one.
        streams: whether so many training images of such a shape shall be `Pictures` rather than in memory; these are
            RGB, since whether all are grey is not known before they are read.

    Raises:
        InputError: missing folders, classes without images, unknown classes in the test part, a class that is a link
            to a folder around it, files that cannot be decoded, have more than 8 bits per channel or more pixels than
            Pillow takes for safe, images of different shapes.
    """
    train_folder = path / "train"
    if not train_folder.is_dir():
        raise InputError(f"data.path: no folder {train_folder}; looked for train/CLASS/*.jpg (or .png, ...)")
    classes = tuple(folder.name for folder in _subfolders(train_folder))
    if not classes:
        raise InputError(f"data.path: no classes in {train_folder}; looked for train/CLASS/*.jpg (or .png, ...)")
    unread: list[pathlib.Path] = []
    listings = {"train": _list_classes(train_folder, classes, unread), "test": _list_test(path, classes, unread)}
    count = num_classes or len(classes)
    labels = {
        part: check_labels(np.array([label for _, label in listing]), len(listing), f"data.path: {path}", count)
        for part, listing in listings.items()
    }
    pictures = {part: _pictures(path, listing, cut) for part, listing in listings.items()}
    if streams(len(labels["train"]), pictures["train"].shape[1:]):
        images: dict[str, Any] = dict(pictures)
    else:
        decoded = {part: _decode(listing, cut) for part, listing in listings.items()}
        # Every image was made RGB, since whether all are grey is known only at the end.
        channels = 1 if all(grey for _, grey in decoded.values()) else 3
        images = {part: np.ascontiguousarray(image[..., :channels]) for part, (image, _) in decoded.items()}
    train, test = (Split(images[part], labels[part]) for part in ("train", "test"))
    check_equal_shapes(train, test, f"data.path: {path}")
    return Dataset(name, train, test, count, classes, _warn_of(unread, path))


def _pictures(path: pathlib.Path, listing: _Listing, cut: Cut) -> Pictures:
    with _no_bombs():
        return Pictures(Files(path, [file for file, _ in listing]), np.arange(len(listing)), cut)


class Files:
    """Pictures in files below a folder: a `Source`. Names lie in one block: every worker has a million of them."""

    def __init__(self, root: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
        self._root = root
        names = [os.fsencode(os.path.relpath(file, root)) for file in files]
        self._names, self._ends = b"".join(names), np.cumsum([0, *map(len, names)])

    def file(self, row: int) -> pathlib.Path:
        """Where a picture lies."""
        return self._root / os.fsdecode(self._name(row))

    def read(self, row: int) -> np.ndarray:
        return _open(self.file(row))[0]

    def describe(self, row: int) -> str:
        return f"data.path: {self.file(row)}"

    def identity(self, rows: np.ndarray) -> bytes:
        """Names and sizes."""
        digest = hashlib.sha256()
        for row in rows:
            digest.update(self._name(row) + b" %d\n" % self.file(row).stat().st_size)
        return digest.digest()

    def _name(self, row: int) -> bytes:
        return self._names[self._ends[row] : self._ends[row + 1]]


def _warn_of(unread: list[pathlib.Path], path: pathlib.Path) -> tuple[str, ...]:
    if not unread:
        return ()
    kinds = Counter(file.suffix.lower() or "no suffix" for file in unread)
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(5))
    return (
        f"data.path: {path}: {len(unread)} entries were not read ({counts}), {unread[0].relative_to(path)} among them; "
        f"read are regular files that end in {', '.join(sorted(_SUFFIXES))}",
    )


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _walk(folder: pathlib.Path, unread: list[pathlib.Path]) -> Iterator[pathlib.Path]:
    """The images below a folder; links to folders are not followed, so that there is an end to it."""
    for entry in _visible(folder):
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, unread)
        elif entry.suffix.lower() in _SUFFIXES and entry.is_file():
            yield entry
        else:
            unread.append(entry)


def _list_classes(folder: pathlib.Path, classes: tuple[str, ...], unread: list[pathlib.Path]) -> _Listing:
    listing: _Listing = []
    unread += [entry for entry in _visible(folder) if not entry.is_dir()]
    for subfolder in _subfolders(folder):
        if subfolder.is_symlink() and folder.resolve().is_relative_to(subfolder.resolve()):
            raise InputError(f"data.path: {subfolder} is a symbolic link to a folder around it; allowed: one per class")
        if subfolder.name not in classes:
            raise InputError(f"data.path: {subfolder} is not among the {len(classes)} classes of train/")
        files = sorted(_walk(subfolder, unread))
        if not files:
            raise InputError(f"data.path: no images in {subfolder}; allowed: {', '.join(sorted(_SUFFIXES))}")
        listing += [(file, classes.index(subfolder.name)) for file in files]
    return listing


def _list_test(path: pathlib.Path, classes: tuple[str, ...], unread: list[pathlib.Path]) -> _Listing:
    annotations = path / "val" / "val_annotations.txt"
    if annotations.is_file():
        listing = _list_annotated(annotations, classes)
    else:
        folder = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
        if folder is None:
            raise InputError(f"data.path: no test part in {path}; looked for test/, val/ and val/val_annotations.txt")
        listing = _list_classes(folder, classes, unread)
    if not listing:
        raise InputError(f"data.path: the test part of {path} is empty; at least one image is needed")
    return listing


def _list_annotated(annotations: pathlib.Path, classes: tuple[str, ...]) -> _Listing:
    listing: _Listing = []
    try:
        lines = annotations.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"data.path: {annotations} is not in UTF-8; allowed: UTF-8, FILE, tab, CLASS a line") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in classes:
            raise InputError(
                f"data.path: {annotations}, line {number}: expected FILE, tab, one of the {len(classes)} classes of "
                f"train/; found {line[:80]!r}"
            )
        listing.append((annotations.parent / "images" / fields[0], classes.index(fields[1])))
    return listing


def _open(file: pathlib.Path) -> tuple[np.ndarray, str]:
    """uint8 [H, W, 3], and the mode that the image was in."""
    from PIL import Image

    if not file.is_file():
        raise InputError(f"data.path: {file} does not exist or is no regular file")
    try:
        # By name, since some of Pillow's formats start other programs.
        with Image.open(file, formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise InputError(f"data.path: {file} has the mode {image.mode}; allowed: 8 bits per channel")
            frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
            if frames > 1:
                raise InputError(f"data.path: {file} has {frames} pictures; allowed: one a file")
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            return np.asarray(image.convert("RGB")), image.mode
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"data.path: {file} claims more pixels than is safe to decode; allowed: {Image.MAX_IMAGE_PIXELS}"
        ) from None
    # Damaged files raise whatever the decoder trips over.
    except Exception as error:
        raise InputError(f"data.path: {file} is not a readable image ({type(error).__name__})") from None


@contextmanager
def _no_bombs() -> Iterator[None]:
    """Makes Pillow's warning of pictures that claim too many pixels an error, which `_open` says in a line."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode(listing: _Listing, cut: Cut) -> tuple[np.ndarray, bool]:
    """uint8 [N, H, W, 3], and whether every image is grey."""
    modes: set[str] = set()

    def decode(entry: tuple[pathlib.Path, int]) -> np.ndarray:
        image, mode = _open(entry[0])
        modes.add(mode)
        return cut.whole(image)

    # Pillow decodes outside the interpreter's lock, so threads help.
    with ThreadPoolExecutor() as pool, _no_bombs():
        try:
            image = stack_images(pool.map(decode, listing), len(listing), lambda row: f"data.path: {listing[row][0]}")
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return image, modes <= _GREY
