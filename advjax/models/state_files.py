"""Tensors by name out of PyTorch, safetensors and Haiku files, which nobody has vouched for.

Nothing in a file is executed: PyTorch files are read with `weights_only=True`, Haiku's pickles by a reader that knows
arrays and mappings only; a file that asks for anything else is refused.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.errors import InputError, unknown
from advjax.files import as_path
from advjax.models import haiku_io
from advjax.models.checks import shown

WRAPPERS = ("state_dict", "model_state_dict", "net", "model", "model_state", "network", "params")
MISSING_TORCH = "PyTorch files need the extra 'torch' (pip install torch); safetensors files need nothing more"
FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")

State = dict[str, np.ndarray]


def read_state(path: str | os.PathLike, *, entry: str | None = None) -> State:
    """The tensors of a file by name, unwrapped, as arrays of float32 or whole numbers; see `advjax.models.load_torch`.

    Raises:
        InputError: the file is absent, unreadable, damaged or would execute code; a tensor is quantised, sparse,
            complex or of another type that holds no plain numbers.
    """
    path = as_path(path, "path")
    if not path.is_file():
        raise InputError(f"no file {path}")
    if path.suffix == ".npy":
        return haiku_io.read_state(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = load_pytorch()
    content = _unwrap(path, _read_torch(torch, path), entry, torch.Tensor)
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    for name in tensors:
        if not isinstance(name, str):
            raise InputError(f"{path} names a tensor by {_kind(name)}, not by text")
    return {name: _array(path, name, tensor) for name, tensor in tensors.items()}


def load_pytorch() -> Any:
    """The module torch.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(MISSING_TORCH) from None
    return torch


def _array(path: pathlib.Path, name: str, tensor: Any) -> np.ndarray:
    type_name = str(tensor.dtype).removeprefix("torch.")
    layout = str(tensor.layout).removeprefix("torch.")
    kinds = {
        "nested": tensor.is_nested,
        "quantised": tensor.is_quantized,
        layout.replace("_", " "): layout != "strided",
        f"on the device {tensor.device.type}, without values": tensor.device.type != "cpu",
        type_name: type_name not in (*FLOATS, *INTEGERS),
    }
    if wrong := [kind for kind, is_so in kinds.items() if is_so]:
        allowed = f"dense tensors of {', '.join((*FLOATS, *INTEGERS))} can be read"
        raise InputError(f"{path}: tensor {shown(name)} is {wrong[0]}; {allowed}")
    claimed = tensor.numel() * tensor.element_size()
    if claimed > max(2**24, 2 * tensor.untyped_storage().nbytes()):
        raise InputError(f"{path}: tensor {shown(name)} claims {claimed:,} bytes, which the file does not hold")
    tensor = tensor.detach().resolve_neg()
    return (tensor.float() if type_name in FLOATS else tensor).numpy()


def _read_safetensors(path: pathlib.Path) -> State:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except Exception as error:  # a foreign file can fail in any way
        own = isinstance(error, (SafetensorError, OSError))
        other = f"tensors of a type that is not read, or damaged; allowed: {', '.join(FLOATS)}"
        raise InputError(f"{path} is no readable safetensors file: {_one_line(error) if own else other}") from None
    for name, value in found.items():
        if value.dtype.name not in (*FLOATS, *INTEGERS):
            raise InputError(f"{path}: tensor {shown(name)} is {value.dtype.name}; allowed: {', '.join(FLOATS)}")
    with np.errstate(over="ignore"):
        return {k: v.astype(np.float32) if v.dtype.name in FLOATS else v for k, v in found.items()}


def _read_torch(torch: Any, path: pathlib.Path) -> Any:
    # Training scripts often store an accuracy beside the weights as a NumPy scalar, which is data as well.
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [np.dtype, *(type(np.dtype(code)) for code in ("f8", "f4", "i8"))]
    numpy_scalars = [scalar, (scalar, "numpy.core.multiarray.scalar"), *dtypes]
    try:
        _check_claims(path)
        with torch.serialization.safe_globals(numpy_scalars):
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a foreign file can fail in any way
        # Only what was found wrong is repeated: PyTorch goes on to advise loading the file unsafely.
        text = str(error)
        if culprit := re.search(r"GLOBAL (\S+)", text):
            asks = f"it holds more than tensors: {shown(culprit[1])}"
            raise InputError(f"{path} is refused and was not executed: {asks}") from None
        if "TorchScript" in text:
            program = "it is a TorchScript program; save its state_dict instead"
            raise InputError(f"{path} is refused and was not executed: {program}") from None
        _, marked, found = text.partition("WeightsUnpickler error:")
        reason = _one_line(found) if marked else _one_line(text.split(". ")[0])
        # PyTorch's and the system's own words; Python's on a look-up that failed (a bare "146") tell nothing.
        if "weights_only" in reason or not isinstance(error, (RuntimeError, pickle.UnpicklingError, OSError)):
            reason = f"it is cut short or damaged ({type(error).__name__})"
        raise InputError(f"{path} cannot be read as a PyTorch file: {reason}") from None


def _check_claims(path: pathlib.Path) -> None:
    # PyTorch never compresses what it writes, so members that unpack to more than the file holds are no tensors.
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > 2 * path.stat().st_size + 2**20:
        raise InputError(f"{path} claims {claimed:,} bytes in a file of {path.stat().st_size:,}")


def _one_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__ if isinstance(error, Exception) else ""
    line = line if line.isprintable() else ascii(line)
    return line if len(line) <= 200 else f"{line[:197]}..."


def _unwrap(path: pathlib.Path, content: Any, entry: str | None, tensor: type) -> Mapping[str, Any]:
    if entry is not None:
        if not isinstance(content, Mapping) or not isinstance(entry, str) or entry not in content:
            raise unknown(f"entry of {path}", entry, map(shown, content) if isinstance(content, Mapping) else ())
        content = content[entry]
    seen = set()
    while isinstance(content, Mapping) and not any(isinstance(v, tensor) for v in content.values()):
        seen.add(id(content))
        inner = next((w for w in WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            held = ", ".join(map(shown, list(content)[:8])) or "nothing"
            raise InputError(f"{path} holds no tensors under a known name ({held}); name the entry that does")
        content = content[inner]
        if id(content) in seen:
            raise InputError(f"{path} holds no tensors, but a dictionary that contains itself ({inner})")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds {_kind(content)}, not tensors by name")
    return content


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
