"""Networks' weights from and to PyTorch files, safetensors files and DeepMind's Haiku checkpoints."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from advjax.errors import InputError
from advjax.files import as_path
from advjax.models import published, torch_names
from advjax.models.checks import problem_of, shown
from advjax.models.registry import create, names, variable_shapes
from advjax.models.state_files import State, load_pytorch, read_state
from advjax.models.wide_resnet import DeepMindWideResNet, WideResNet

NORMALISATION = ("mean", "std", "mu", "sigma")


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
        InputError: the file is absent, unreadable or would execute code; a tensor is missing, unused or mis-shaped (the
            line then names the networks of this library and the published teachers that the file fits), is not of
            floating-point numbers, holds NaN or infinity, or is a negative running variance.
    """
    state = read_state(path, entry=entry)
    params, leaves = _leaves(module, variable_shapes(module, input_shape))
    wanted = {torch_names.torch_name(module, p[1:]): p for p in leaves}
    found = _renamed(path, module, state, wanted)
    unused = [k for k in found if k not in wanted]
    skipped = {k for k in unused if _is_skipped(module, k, found[k])}
    problems = _listed("missing", [k for k in wanted if k not in found])
    problems += _listed("unused", [k for k in unused if k not in skipped])
    shapes = {k: torch_names.torch_shape(p, leaves[p].shape) for k, p in wanted.items()}
    wrong = [k for k in wanted if k in found and found[k].shape != shapes[k]]
    problems += _listed("mis-shaped", [f"{shown(k)} is {found[k].shape}, not {shapes[k]}" for k in wrong])
    if problems:
        fitting = [*_listed("it fits", fits(state, input_shape))]
        raise InputError(f"{path} does not fit {type(module).__name__}: {'; '.join(problems + fitting)}")
    for name, leaf in wanted.items():
        value = found[name]
        integer = value.dtype.kind in "iub" and f"is of type {value.dtype}, not of floating-point numbers"
        if problem := integer or problem_of(value, leaf[-1] == "var"):
            raise InputError(f"{path}: tensor {name} {problem}")
    _warn_of_skipped(path, module, skipped, found)

    def converted(name: str, leaf: tuple[str, ...]) -> Any:
        channels = torch_names.flattened_channels(module, leaf[1:], params)
        return jnp.asarray(torch_names.from_torch(leaf, found[name], channels))

    variables = unflatten_dict({leaf: converted(name, leaf) for name, leaf in wanted.items()})
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def load_teacher(name: str, path: str | os.PathLike | None = None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A published teacher with its architecture and normalisation set right.

    Args:
        name: one of `advjax.models.published.names()`.
        path: the file that its authors publish.
        **options: further options of the network, e.g. `dtype`, or `mean` and `std` to use it as others did.

    Returns:
        The linen module and its variables.

    Raises:
        InputError: an unknown name, no path (the message says where the file is to be had), a file that does not fit.
    """
    entry = published.teacher(name)
    if path is None:
        raise InputError(f"teacher {name} needs path=FILE; its authors publish the file at {entry.where}")
    if own := {"name", "num_classes"} & set(options):
        raise InputError(f"{sorted(own)[0]} is no option of teacher {name}: its file decides")
    module = create(entry.network, entry.num_classes, **{**entry.options, **options})
    return module, load_torch(path, module, entry.image_shape)


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
    path = as_path(path, "path")
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        # `save_file` lets nobody but its owner read the file.
        path.write_bytes(save(state, metadata={"format": "pt"}))
        return
    torch = load_pytorch()
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


def _leaves(module: nn.Module, variables: Mapping[str, Any]) -> tuple[Any, dict[tuple[str, ...], Any]]:
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats") or {}}
    return variables["params"], flatten_dict(variables)


def _renamed(path: Any, module: nn.Module, state: State, wanted: Iterable[str]) -> State:
    """The tensors by the names that this library writes for the network."""
    prefix, reads = _common_prefix(path, state, wanted), torch_names.dialect(module).reads
    found = {torch_names.substitute(k.removeprefix(prefix), reads): v for k, v in state.items()}
    return {k: v for k, v in found.items() if not k.endswith("num_batches_tracked")}


def fits(state: State, input_shape: tuple[int, int, int]) -> list[str]:
    """The networks of this library, and the published teachers, that have exactly these tensors.

    Args:
        state: tensors by name, as `read_state` gives them.
        input_shape: (H, W, C) of an image.

    Returns:
        `["resnet18 (10 classes)", "the teacher sehwag2021_resnet18", ...]`.
    """
    structures: dict[Any, list[str]] = {(name, ()): [] for name in names()}
    for name, entry in published.TEACHERS.items():
        structure = {k: v for k, v in entry.options.items() if k not in ("mean", "std")}
        structures.setdefault((entry.network, tuple(sorted(structure.items()))), []).append(name)
    fitting = []
    for (network, options), teachers in structures.items():
        classes = _classes_that_fit(state, network, dict(options), input_shape)
        if classes is not None:
            chosen = "".join(f", {k}={v!r}" for k, v in options)
            fitting.append(f"{network} ({classes} classes{chosen})")
            own = [name for name in teachers if published.TEACHERS[name].num_classes == classes]
            fitting += [f"the teacher {name}" for name in own]
    return fitting


def _classes_that_fit(state: State, network: str, options: dict[str, Any], input_shape: Any) -> int | None:
    """K for which the network has exactly these tensors, None if there is none."""
    probe = 10007  # no size that a layer has, so that only the last layer's shapes show it
    module = create(network, probe, **options)
    try:
        leaves = _leaves(module, variable_shapes(module, input_shape))[1]
        shapes = {torch_names.torch_name(module, p[1:]): torch_names.torch_shape(p, v.shape) for p, v in leaves.items()}
        found = _renamed("", module, state, shapes)
    except Exception:  # not for images of this shape, in whatever words, or two networks in one file
        return None
    found = {k: v for k, v in found.items() if not _is_skipped(module, k, v)}
    if found.keys() != shapes.keys():
        return None
    classes = {found[k].shape[0] for k, shape in shapes.items() if probe in shape and found[k].ndim}
    if len(classes) != 1:
        return None
    (count,) = classes
    same = all(found[k].shape == tuple(count if n == probe else n for n in shape) for k, shape in shapes.items())
    return count if same else None


def _is_skipped(module: nn.Module, name: str, value: np.ndarray) -> bool:
    return _is_dead(module, name) or _is_normalisation(name, value)


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
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{what} {', '.join(map(shown, names[:5]))}{more}"] if names else []


def _warn_of_skipped(path: Any, module: nn.Module, skipped: set[str], found: State) -> None:
    dead = sorted(k for k in skipped if _is_dead(module, k))
    if dead:
        warnings.warn(f"{path}: {_listed('skipped, since no network uses them,', dead)[0]}", stacklevel=3)
    for name in sorted(skipped - set(dead)):
        value = tuple(found[name].ravel().tolist())
        field = "mean" if name.split(".")[-1] in ("mean", "mu") else "std"
        own = getattr(module, field, None)
        if own is None or not np.allclose(np.broadcast_to(value, len(own)), own, atol=1e-3):
            rounded = tuple(round(v, 4) for v in value)
            message = f"{path} normalises inside the network, {name} = {rounded}; this network has {field} = {own}"
            warnings.warn(message, stacklevel=3)
