"""Image folders: ImageNet's layout and Tiny-ImageNet's own."""

from __future__ import annotations

import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from advjax.data.base import Dataset, Split, check_equal_shapes, check_labels, fit, stack_images
from advjax.errors import InputError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_GREY = {"1", "L", "LA"}

_Listing = list[tuple[pathlib.Path, int]]


def read(name: str, path: pathlib.Path, num_classes: int | None = None, image_size: int | None = None) -> Dataset:
    """Reads a folder of images into main memory (a hundred thousand 64x64x3 images are 1.2 GB).

    ImageNet's layout: `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, or `val/` in place of a missing `test/`; images may
    lie deeper below their class. Tiny-ImageNet's: `train/CLASS/images/*.JPEG`, `val/images/*.JPEG` and
    `val/val_annotations.txt` (its unlabelled `test/` is left alone). Classes are the folders of `train/` in sorted
    order. Images are RGB, or grey with one channel if every one of them is grey; transparency is dropped.

    Args:
        name: name of the resulting data set.
        path: the folder with `train/` in it.
        num_classes: number of classes, if it is not the number of folders.
        image_size: resize and crop every image to that size, see `base.fit`; without it they must all be of one size.

    Raises:
        InputError: missing folders, classes without images, unknown classes in the test part, files that cannot be
            decoded or have more than 8 bits per channel, images of different shapes.
    """
    train_folder = path / "train"
    if not train_folder.is_dir():
        raise InputError(f"data.path: no folder {train_folder}; looked for train/CLASS/*.jpg (or .png, ...)")
    classes = tuple(folder.name for folder in _subfolders(train_folder))
    if not classes:
        raise InputError(f"data.path: no classes in {train_folder}; looked for train/CLASS/*.jpg (or .png, ...)")
    listings = {"train": _list_classes(train_folder, classes), "test": _list_test(path, classes)}
    decoded = {part: _decode(listing, image_size) for part, listing in listings.items()}
    # Every image was made RGB, since whether all are grey is known only at the end.
    channels = 1 if all(grey for _, grey in decoded.values()) else 3
    count = num_classes or len(classes)
    train, test = (
        Split(
            np.ascontiguousarray(image[..., :channels]),
            check_labels(np.array([label for _, label in listings[part]]), len(image), f"data.path: {path}", count),
        )
        for part, (image, _) in decoded.items()
    )
    check_equal_shapes(train, test, f"data.path: {path}")
    return Dataset(name, train, test, count, classes)


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _list_classes(folder: pathlib.Path, classes: tuple[str, ...]) -> _Listing:
    listing: _Listing = []
    for subfolder in _subfolders(folder):
        if subfolder.name not in classes:
            raise InputError(f"data.path: {subfolder} is not among the {len(classes)} classes of train/")
        files = sorted(file for file in subfolder.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise InputError(f"data.path: no images in {subfolder}; allowed: {', '.join(sorted(_SUFFIXES))}")
        listing += [(file, classes.index(subfolder.name)) for file in files]
    return listing


def _list_test(path: pathlib.Path, classes: tuple[str, ...]) -> _Listing:
    annotations = path / "val" / "val_annotations.txt"
    if annotations.is_file():
        listing = _list_annotated(annotations, classes)
    else:
        folder = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
        if folder is None:
            raise InputError(f"data.path: no test part in {path}; looked for test/, val/ and val/val_annotations.txt")
        listing = _list_classes(folder, classes)
    if not listing:
        raise InputError(f"data.path: the test part of {path} is empty; at least one image is needed")
    return listing


def _list_annotated(annotations: pathlib.Path, classes: tuple[str, ...]) -> _Listing:
    listing: _Listing = []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
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


def _decode(listing: _Listing, image_size: int | None) -> tuple[np.ndarray, bool]:
    """uint8 [N, H, W, 3], and whether every image is grey."""
    from PIL import Image, UnidentifiedImageError

    modes: set[str] = set()

    def decode(entry: tuple[pathlib.Path, int]) -> np.ndarray:
        file = entry[0]
        try:
            with Image.open(file) as image:
                modes.add(image.mode)
                if image.mode.startswith(("I", "F")):
                    raise InputError(f"data.path: {file} has the mode {image.mode}; allowed: 8 bits per channel")
                return fit(np.asarray(image.convert("RGB")), image_size)
        except FileNotFoundError:
            raise InputError(f"data.path: {file} does not exist") from None
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"data.path: {file} is not a readable image ({type(error).__name__})") from None

    # Pillow decodes outside the interpreter's lock, so threads help.
    with ThreadPoolExecutor() as pool:
        image = stack_images(pool.map(decode, listing), len(listing), lambda row: f"data.path: {listing[row][0]}")
    return image, modes <= _GREY
