"""Networks' weights from and to PyTorch files, safetensors files and DeepMind's Haiku checkpoints.

Nothing in a file is executed: PyTorch files are read with `weights_only=True`, Haiku's pickles by a reader that knows
arrays and mappings only; a file that asks for anything else is refused.
"""

from __future__ import annotations

import os
import pathlib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from advjax.errors import InputError, unknown
from advjax.models import haiku_io, torch_names
from advjax.models.registry import variable_shapes
from advjax.models.wide_resnet import DeepMindWideResNet, WideResNet

WRAPPERS = ("state_dict", "model_state_dict", "net", "model", "model_state", "network", "params")
NORMALISATION = ("mean", "std", "mu", "sigma")
MISSING_TORCH = "PyTorch files need the extra 'torch' (pip install torch); safetensors files need nothing more"

State = dict[str, np.ndarray]


def load_torch(
    path: str | os.PathLike, module: nn.Module, input_shape: tuple[int, int, int], *, entry: str | None = None
) -> dict[str, Any]:
    """The variables of a network from a file.

    Accepted are PyTorch's formats (old and new), `.safetensors`, and DeepMind's Haiku `.npy` for their Wide ResNets.
    The tensors may lie in a wrapper (`state_dict`, `model_state_dict`, `net`, ...) and bear a common prefix
    (`module.`). Skipped are `num_batches_tracked`, the dead `sub_block1` of TRADES' Wide ResNets (a warning names its
    tensors) and the buffers of an in-model normalisation (a warning says so where the network's own differs).

    Args:
        path: the file.
        module: the network it belongs to.
        input_shape: (H, W, C) of an image.
        entry: the wrapper's key that holds the tensors, if the file has several; None: the first known one.

    Returns:
        `{"params": ..., "batch_stats": ...}`, float32.

    Raises:
        InputError: the file is absent, unreadable or would execute code; a tensor is missing, unused or mis-shaped.
    """
    state = read_state(path, entry=entry)
    params, leaves = _leaves(module, variable_shapes(module, input_shape))
    wanted = {torch_names.torch_name(module, p[1:]): p for p in leaves}
    prefix = _common_prefix(path, state, wanted)
    reads = torch_names.dialect(module).reads
    found = {torch_names.substitute(k.removeprefix(prefix), reads): v for k, v in state.items()}
    found = {k: v for k, v in found.items() if not k.endswith("num_batches_tracked")}

    unused = [k for k in found if k not in wanted]
    skipped = {k for k in unused if _is_dead(module, k)} | {k for k in unused if _is_normalisation(k, found[k])}
    problems = _listed("missing", [k for k in wanted if k not in found])
    problems += _listed("unused", [k for k in unused if k not in skipped])
    shapes = {k: torch_names.torch_shape(p, leaves[p].shape) for k, p in wanted.items()}
    wrong = [k for k in wanted if k in found and found[k].shape != shapes[k]]
    problems += _listed("mis-shaped", [f"{k} is {found[k].shape}, not {shapes[k]}" for k in wrong])
    if problems:
        raise InputError(f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}")
    _warn_of_skipped(path, module, skipped, found)

    def converted(name: str, leaf: tuple[str, ...]) -> Any:
        channels = torch_names.flattened_channels(module, leaf[1:], params)
        return jnp.asarray(torch_names.from_torch(leaf, found[name], channels))

    variables = unflatten_dict({leaf: converted(name, leaf) for name, leaf in wanted.items()})
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def save_torch(
    path: str | os.PathLike, module: nn.Module, variables: Mapping[str, Any], *, sub_block1: bool = False
) -> None:
    """Writes a network as a plain PyTorch state dict, or as safetensors where `path` ends in `.safetensors`.

    Args:
        path: the file to write.
        module: the network.
        variables: `{"params": ..., "batch_stats": ...}`.
        sub_block1: for TRADES' Wide ResNets, write the dead `sub_block1` too (a copy of `block1`), which the authors'
            class demands when it loads strictly.

    Raises:
        InputError: `sub_block1` for a network that has none; PyTorch is not installed.
    """
    state = torch_state(module, variables, sub_block1=sub_block1)
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(state, path, metadata={"format": "pt"})
        return
    torch = _torch()
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in state.items()}, path)


def torch_state(module: nn.Module, variables: Mapping[str, Any], *, sub_block1: bool = False) -> State:
    """The tensors that `save_torch` writes, by their PyTorch names."""
    params, leaves = _leaves(module, variables)
    state: State = {}
    for leaf, value in leaves.items():
        name = torch_names.torch_name(module, leaf[1:])
        state[name] = torch_names.to_torch(leaf, value, torch_names.flattened_channels(module, leaf[1:], params))
        if leaf[-1] == "var":
            state[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    if sub_block1:
        if not isinstance(module, WideResNet) or isinstance(module, DeepMindWideResNet):
            raise InputError(f"sub_block1 exists only in TRADES' Wide ResNets (wrn_*), not in {type(module).__name__}")
        state |= {f"sub_{name}": value.copy() for name, value in state.items() if name.startswith("block1.")}
    return state


def read_state(path: str | os.PathLike, *, entry: str | None = None) -> State:
    """The tensors of a file by name, unwrapped, as arrays; see `load_torch`."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}")
    if path.suffix == ".npy":
        return haiku_io.read_state(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = _torch()
    content = _unwrap(path, _read_torch(torch, path), entry, torch.Tensor)
    return {
        k: (v.float() if v.is_floating_point() else v).detach().numpy()
        for k, v in content.items()
        if isinstance(v, torch.Tensor)
    }


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise InputError(MISSING_TORCH) from None
    return torch


def _read_safetensors(path: pathlib.Path) -> State:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {k: v if v.dtype.kind in "iu" else v.astype(np.float32) for k, v in load_file(path).items()}
    except SafetensorError as error:
        raise InputError(f"{path} is no readable safetensors file: {error}") from None


def _read_torch(torch: Any, path: pathlib.Path) -> Any:
    # Training scripts often store an accuracy beside the weights as a NumPy scalar, which is data as well.
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [np.dtype, *(type(np.dtype(code)) for code in ("f8", "f4", "i8"))]
    numpy_scalars = [scalar, (scalar, "numpy.core.multiarray.scalar"), *dtypes]
    try:
        with torch.serialization.safe_globals(numpy_scalars):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights_only" in str(error) or "Weights only" in str(error):
            culprit = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), reason)
            message = f"{path} is refused and was not executed: it holds more than tensors: {culprit}"
            raise InputError(message) from None
        raise InputError(f"{path} cannot be read as a PyTorch file: {reason}") from None


def _unwrap(path: pathlib.Path, content: Any, entry: str | None, tensor: type) -> Mapping[str, Any]:
    if entry is not None:
        if not isinstance(content, Mapping) or entry not in content:
            raise unknown(f"entry of {path}", entry, map(str, content) if isinstance(content, Mapping) else ())
        content = content[entry]
    while isinstance(content, Mapping) and not any(isinstance(v, tensor) for v in content.values()):
        inner = next((w for w in WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            held = ", ".join(map(str, list(content)[:8])) or "nothing"
            raise InputError(f"{path} holds no tensors under a known name ({held}); name the entry that does")
        content = content[inner]
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return content


def _leaves(module: nn.Module, variables: Mapping[str, Any]) -> tuple[Any, dict[tuple[str, ...], Any]]:
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats") or {}}
    return variables["params"], flatten_dict(variables)


def _common_prefix(path: Any, state: State, wanted: Iterable[str]) -> str:
    wanted = set(wanted)
    hits: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                hits["".join(f"{part}." for part in parts[:i])] += 1
    if not hits:
        return ""
    (best, count), *others = hits.most_common(2)
    if others and others[0][1] == count:
        raise InputError(f"{path} holds several such networks, under {best!r} and {others[0][0]!r}; keep one of them")
    return best


def _is_dead(module: nn.Module, name: str) -> bool:
    return isinstance(module, WideResNet) and name.startswith("sub_block1.")


def _is_normalisation(name: str, value: np.ndarray) -> bool:
    return name.split(".")[-1] in NORMALISATION and value.size <= 4


def _listed(what: str, names: list[str]) -> list[str]:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"{what} {shown}"] if names else []


def _warn_of_skipped(path: Any, module: nn.Module, skipped: set[str], found: State) -> None:
    dead = sorted(k for k in skipped if _is_dead(module, k))
    if dead:
        warnings.warn(f"{path}: {_listed('skipped, since no network uses them,', dead)[0]}", stacklevel=3)
    for name in sorted(skipped - set(dead)):
        value = tuple(found[name].ravel().tolist())
        field = "mean" if name.split(".")[-1] in ("mean", "mu") else "std"
        own = getattr(module, field, None)
        if own is None or not np.allclose(np.broadcast_to(value, len(own)), own, atol=1e-3):
            shown = tuple(round(v, 4) for v in value)
            message = f"{path} normalises inside the network, {name} = {shown}; this network has {field} = {own}"
            warnings.warn(message, stacklevel=3)
