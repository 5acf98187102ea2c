"""The arrays of an npz file: what they claim is checked before any memory is taken for them."""

from __future__ import annotations

import math
import pathlib
import tokenize
import zipfile
from typing import NamedTuple

import numpy as np

from advjax.data.base import check_memory
from advjax.errors import InputError

# Deflate cannot make more than 1,032 bytes of one.
_MOST_DEFLATED = 1040
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


class Member(NamedTuple):
    """One array of an npz file, as its header has it.

    Attributes:
        file: the npz file.
        name: the array's name.
        shape: its shape.
        dtype: its type, never object.
        fortran: whether it is stored column by column.
        offset: where its data begins in the file if it is stored as it is, None if it is compressed.
        where: the field and the file, at the start of every message.
    """

    file: pathlib.Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int | None
    where: str

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The array, in memory; its checksum is verified."""
        check_memory(self.nbytes, f"{self.where}: array {self.name}")
        try:
            with zipfile.ZipFile(self.file) as archive, archive.open(f"{self.name}.npy") as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except Exception as error:
            raise _unreadable(self.where, error) from None

    def map(self) -> np.ndarray:
        """The array, read only, from the file's pages where it is stored as it is, in memory where it is compressed."""
        if self.offset is None or not self.nbytes:
            return self.read()
        try:
            return np.memmap(self.file, self.dtype, "r", self.offset, self.shape, "F" if self.fortran else "C")
        except (OSError, ValueError) as error:
            raise _unreadable(self.where, error) from None


def members(file: pathlib.Path, where: str) -> dict[str, Member]:
    """The arrays of an npz file by name; only their headers are read.

    Args:
        file: the npz file; what is no regular file is not opened.
        where: the field and the file, at the start of every message.

    Raises:
        InputError: no npz file, a single array, arrays that are pickled, encrypted, compressed by anything but
            deflate, of one name, or that claim a size which the file cannot hold.
    """
    if not file.is_file():
        raise InputError(f"{where}: no regular file")
    try:
        with file.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise InputError(f"{where}: holds a single array; an npz archive is needed")
            with zipfile.ZipFile(file) as archive:
                entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
                size = file.stat().st_size
                names = [entry.filename for entry in entries]
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise InputError(f"{where}: array {twice.removesuffix('.npy')[:80]!r} is in it twice")
                return {m.name: m for m in (_member(archive, stream, entry, size, file, where) for entry in entries)}
    except InputError:
        raise
    # Whatever a damaged or hostile file makes of zipfile and of NumPy's reader of headers.
    except Exception as error:
        raise _unreadable(where, error) from None


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(f"{where}: not a readable npz file ({type(error).__name__})")


def _member(archive, stream, entry: zipfile.ZipInfo, size: int, file: pathlib.Path, where: str) -> Member:
    name = entry.filename.removesuffix(".npy")
    array = f"{where}: array {name[:80]!r}"
    if entry.flag_bits & 1:
        raise InputError(f"{array} is encrypted; allowed: arrays as numpy.savez or numpy.savez_compressed writes them")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{array} is compressed by zip's method {entry.compress_type}; allowed: numpy.savez or "
            "numpy.savez_compressed (deflate)"
        )
    stored = entry.compress_type == zipfile.ZIP_STORED
    most = entry.compress_size * (1 if stored else _MOST_DEFLATED)
    if entry.compress_size > size or entry.file_size > most:
        raise InputError(f"{array} claims {entry.file_size} bytes, more than the file's {size} can hold")
    with archive.open(entry) as data:
        try:
            # What 3.0 adds to 2.0, names of fields beyond Latin 1, no array of plain numbers has.
            reader = _HEADERS[np.lib.format.read_magic(data)]
            shape, fortran, dtype = reader(data)
        # NumPy's reader of headers evaluates text, which fails in any way; zipfile's errors keep their own line.
        except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
            raise InputError(f"{array} has no header that NumPy reads; allowed: .npy format 1.0, 2.0 or 3.0") from None
        header = data.tell()
    if dtype.hasobject:
        raise InputError(f"{array} holds pickled objects, which are not loaded; allowed: plain arrays")
    stream.seek(entry.header_offset + 26)
    start = entry.header_offset + 30 + sum(int.from_bytes(stream.read(2), "little") for _ in range(2)) + header
    member = Member(file, name, shape, dtype, fortran, start if stored else None, where)
    if min(shape, default=0) < 0 or member.nbytes != entry.file_size - header:
        raise InputError(
            f"{array} has a header of shape {str(shape)[:80]} and type {dtype}, which its {entry.file_size} bytes "
            "do not fit"
        )
    return member
