"""Wrong input, made by hypothesis: what people, scripts and damaged disks put into configs, flags and files."""

from __future__ import annotations

import copy
import functools
import io
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st

from advjax import cli, models

CONFIGS = ("pgd_at", "trades", "bmtard", "sglr", "mat", "mat_union", "trades_awp", "hat", "avg", "seat")
TEXTS = (
    *("", "x", "none", "True", "nan", "inf", "8/255", "1/0", "-1/255", "8/255/2", "1e400", "0x10", "9" * 400),
    *("digits", "cifar10", "trades", "natural_awp_awp", "linf", "l2", "best", "clean", "union", "cosine", "crop++"),
    *("a:b", ":", "a:", ":b", "..:x", "json:JSONDecoder", "advjax.methods:Wrapper", "advjax.methods:TRADES"),
    *("/dev/zero", "/proc/self/mem", "/", ".", "~", "a\nb", "a\0b", "\u202e\U0001f600", "\ud800", "rotate1e9"),
)
WHOLE = (0, 1, -1, 2, 3, 7, 100, 2**31, 2**32, 2**62, 2**63, 2**64, -(2**63) - 1, 10**18, 10**400, 10**4000)
REAL = (-0.0, 0.5, 1.5, -0.5, 1e-300, 1e-45, 1e39, 1e308, float("nan"), float("inf"), float("-inf"))
OBJECTS = (None, True, b"x", 1j, object(), np.float32(0.5), np.int64(3), np.zeros(3), np.array(0.1), int, range(3))
KEYS = ("name", "eps", "path", "network", "attack", "dtype", "num_classes", "base", "x.y", "", None, 1)

_plain = st.sampled_from(WHOLE) | st.sampled_from(REAL) | st.sampled_from(TEXTS) | st.floats() | st.integers()
values = st.recursive(
    _plain | st.text(max_size=20) | st.sampled_from(OBJECTS).map(copy.copy),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2)
    ),
    max_leaves=6,
)
# Of the right type, mostly.
_alike = {
    bool: st.booleans(),
    int: st.sampled_from(WHOLE) | st.integers(-3, 5000),
    float: st.sampled_from(REAL) | st.floats(0, 2) | st.sampled_from(WHOLE),
    str: st.sampled_from(TEXTS),
    tuple: st.lists(_plain, max_size=4).map(tuple),
}


class Config(NamedTuple):
    """A config in which something may be wrong.

    Attributes:
        values: nested plain values.
        changed: path of each field that was changed -> what it became.
    """

    values: dict[str, Any]
    changed: dict[tuple[Any, ...], Any]


@functools.cache
def base(name: str) -> dict[str, Any]:
    """The plain values of a config on digits."""
    return cli.load_config(f"{name}:digits").to_dict()


def paths(config: dict[str, Any], above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field and group of a config."""
    found = []
    for name, value in config.items():
        found += [(*above, name), *(paths(value, (*above, name)) if isinstance(value, dict) else [])]
    return found


@st.composite
def configs(draw: Any) -> Config:
    """A config with one to three fields changed, seldom one that is not there."""
    config = copy.deepcopy(base(draw(st.sampled_from(CONFIGS))))
    changed = {}
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        path = draw(st.sampled_from(paths(config)))
        if draw(st.integers(0, 19)) == 0:
            path = (*path[:-1], draw(st.sampled_from(KEYS)))
        group: Any = functools.reduce(lambda each, name: each[name], path[:-1], config)
        alike = _alike.get(type(group.get(path[-1])), values)
        group[path[-1]] = changed[path] = draw(alike | values)
    return Config(config, changed)


def torch_file(folder: pathlib.Path, name: str) -> bytes:
    """A weights file of `network()`."""
    variables = models.init(network(), jax.random.key(0), SHAPE)
    models.save_torch(folder / name, network(), jax.tree.map(np.asarray, variables))
    return (folder / name).read_bytes()


SHAPE = (8, 8, 1)


def network() -> Any:
    """The network that weights files are of."""
    return models.create("tiny_cnn", 3, width=2)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Name -> content of a small good file of every kind that is read."""
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (12, *SHAPE)).astype(np.uint8)
    label = np.arange(12) % 3
    found = {name: torch_file(folder, name) for name in ("weights.pt", "weights.safetensors")}
    for name, save in (("plain.npz", np.savez), ("packed.npz", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, x_train=image, y_train=label, x_test=255 - image[:6], y_test=label[:6])
        found[name] = stream.getvalue()
    for kind in ("png", "jpeg", "bmp", "webp", "tiff", "ppm"):
        stream = io.BytesIO()
        Image.fromarray(image[0, ..., 0]).save(stream, kind)
        found[f"picture.{kind}"] = stream.getvalue()
    return found


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """A file with bytes changed, cut off, left out, repeated or overwritten, mostly where headers and indices are."""
    made = bytearray(content)
    for _ in range(draw(st.sampled_from((1, 1, 2, 4, 16)))):
        near = min(draw(st.integers(0, 200)), len(made))
        place = draw(st.sampled_from((near, len(made) - near, draw(st.integers(0, len(made))))))
        length = draw(st.sampled_from((1, 2, 4, 8, 64)))
        kind = draw(st.sampled_from(("change", "cut", "leave out", "repeat", "size")))
        if kind == "cut":
            del made[place:]
        elif kind == "leave out":
            del made[place : place + length]
        elif kind == "repeat":
            made[place:place] = made[:length]
        elif kind == "size":
            size = draw(st.sampled_from((0, 2**16, 2**31 - 1, 2**32 - 1)))
            made[place : place + 4] = size.to_bytes(4, "little")
        else:
            made[place : place + length] = draw(st.binary(min_size=length, max_size=length))
    return bytes(made)
