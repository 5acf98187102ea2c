"""Whether variables can be those of a network: their shapes and their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from advjax.errors import InputError
from advjax.models.registry import variable_shapes

_VARIANCE = re.compile(r"(^|_)var(iance)?(_|$)")


def check_variables(variables: Any, module: Any, image_shape: tuple[int, int, int], where: str) -> None:
    """Raises unless the variables are those of a network and can be computed with.

    XLA may give finite logits for a NaN among the parameters (a maximum drops it), so logits tell nothing.

    Args:
        variables: `{"params": ..., "batch_stats": ...}`, arrays.
        module: the network.
        image_shape: (H, W, C) of an image.
        where: what the message begins with: the file or folder, or the field that names it.

    Raises:
        InputError: a leaf is missing, left over or of another shape, is not of real numbers, holds NaN or infinity, or
            is a negative running variance; the line names the first one.
    """
    found, expected = _leaves(variables), _leaves(variable_shapes(module, image_shape))
    for path in sorted({*found, *expected}):
        if path not in found or path not in expected or np.shape(found[path]) != expected[path].shape:
            own = np.shape(found[path]) if path in found else "none"
            wanted = expected[path].shape if path in expected else "none"
            raise InputError(f"{where}: {shown(path)} has shape {own}, {type(module).__name__} needs {wanted}")
    for path, value in found.items():
        variance = path.startswith("batch_stats/") and any(map(_VARIANCE.search, path.split("/")))
        if problem := problem_of(value, variance):
            raise InputError(f"{where}: {path} {problem}")


def problem_of(value: Any, variance: bool = False) -> str | None:
    """What is wrong with an array of parameters or statistics, as in "holds NaN in 2 of 64 places"; None if nothing is.

    Args:
        value: the array.
        variance: whether it holds running variances, which cannot be negative.
    """
    array = np.asarray(value)
    if not (jax.numpy.issubdtype(array.dtype, np.floating) or array.dtype.kind in "iub"):
        return f"is of type {array.dtype}, not of real numbers"
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = ~np.isfinite(array)
    if count := int(bad.sum()):
        kind = "NaN" if np.isnan(array).any() else "infinity or numbers beyond float32"
        return f"holds {kind} in {count:,} of {array.size:,} places"
    if variance and array.size and array.min() < 0:
        return f"is a running variance and negative ({array.min():.3g})"
    return None


def shown(name: object) -> str:
    """A name out of a file as it may stand in a line."""
    text = str(name) if isinstance(name, str) else f"<{type(name).__name__}>"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _leaves(tree: Any) -> dict[str, Any]:
    if isinstance(tree, Mapping):
        tree = {key: value for key, value in tree.items() if key in ("params", "batch_stats")}
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
