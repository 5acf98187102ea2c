"""Networks that are no linen modules, made into what a training step, an attack and a report take.

An adapter answers as a linen module does, `module.init(key, images)` and `module.apply(variables, images, train=...,
mutable=["batch_stats"], rngs={"dropout": key})`, and is equal to any other made of the same class or functions with the
same options, so it compiles once. Its variables are nested dictionaries of arrays: `params`, what is trained, and
`batch_stats`, all that a training forward may change, as float32.

What cannot be promised of a foreign BatchNorm: it sees one device's share of the batch, its padding rows included, and
normalises by that. Every device's new statistics are averaged, so that all devices keep the same ones; but one device
does not equal four, as it does with `advjax.models.BatchNorm`.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from advjax.errors import InputError
from advjax.models.layers import Train, TrainMode

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Adapter(ABC):
    """A network made of something else.

    Attributes:
        num_classes: K, the number of logits.
        stochastic: whether a training forward draws random numbers.
        origin: (name, options) that `advjax.models.create` made it of, if it did.
    """

    num_classes: int
    stochastic: bool = True
    origin: tuple[str, dict[str, Any]] | None = dataclasses.field(default=None, kw_only=True, compare=False)

    dtype = "float32"

    @abstractmethod
    def initial(self, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        """Fresh parameters and state."""

    @abstractmethod
    def forward(
        self, params: Any, state: Any, x: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """Logits and new state."""

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, Any]:
        """Fresh variables for images like x [B, H, W, C]."""
        params, state = self.initial(key, x)
        return {"params": params, "batch_stats": _stored(state)}

    def apply(
        self,
        variables: Variables,
        x: jax.Array,
        train: Train = False,
        mutable: Any = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> Any:
        """Logits [B, K] of images [B, H, W, C] in [0, 1].

        Args:
            variables: `{"params": ..., "batch_stats": ...}`.
            x: the images.
            train: whether, and for which batch, this is a training forward.
            mutable: whether to give the new statistics as well, as linen does.
            rngs: the key `dropout` for whatever a training forward draws.

        Returns:
            The logits, with `mutable` (logits, `{"batch_stats": ...}`).
        """
        like = jax.eval_shape(self.initial, jax.random.key(0), x)[1]
        state = jax.tree.map(lambda value, known: value.astype(known.dtype), variables.get("batch_stats", {}), like)
        logits, new = self.forward(variables["params"], state, x, bool(train), (rngs or {}).get("dropout"))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if not mutable:
            return logits
        stats = _stored(new)
        if isinstance(train, TrainMode) and train.axis_name is not None:
            stats = jax.lax.pmean(stats, train.axis_name)
        return logits, {"batch_stats": stats}


def _stored(state: Any) -> Any:
    # One type for all, so that counters and flags go through means over devices, files and hashes as statistics do.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), state)


def from_init_apply(init: Callable, apply: Callable, *, num_classes: int, stochastic: bool = True) -> Adapter:
    """A network of any pair of functions.

    Args:
        init: `(key, images [B, H, W, C]) -> (params, state)`, pytrees of arrays, no bare ones; `{}` for no state.
        apply: `(params, state, images, train, key) -> (logits [B, K], state)`; `train` is a Python bool, `key` None in
            evaluation.
        num_classes: K.
        stochastic: whether a training forward uses `key`.

    Returns:
        A network, equal to another of the same two functions.
    """
    return FunctionAdapter(num_classes, stochastic, init, apply)


@dataclasses.dataclass(frozen=True)
class FunctionAdapter(Adapter):
    """See `from_init_apply`."""

    init_function: Callable = lambda key, x: ({}, {})
    apply_function: Callable = lambda params, state, x, train, key: (x, state)

    def initial(self, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        """As in `Adapter`."""
        params, state = self.init_function(key, x)
        return _by_name(params), _by_name(state)

    def forward(
        self, params: Any, state: Any, x: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """As in `Adapter`."""
        like = jax.eval_shape(self.init_function, jax.random.key(0), x)
        given = (_filled(tree, values) for tree, values in zip(like, (params, state), strict=True))
        logits, new = self.apply_function(*given, x, train, key)
        return logits, _by_name(new)


def from_haiku(transformed: Any, *, num_classes: int, stochastic: bool = True, takes_training: bool = True) -> Adapter:
    """A Haiku network.

    Args:
        transformed: what `haiku.transform` or `haiku.transform_with_state` returned for a function `(images, train)`.
        num_classes: K.
        stochastic: whether a training forward draws random numbers.
        takes_training: whether the function has that second argument, a Python bool.

    Returns:
        A network, equal to another of the same `transformed`.
    """
    return HaikuAdapter(num_classes, stochastic, transformed, takes_training)


@dataclasses.dataclass(frozen=True)
class HaikuAdapter(Adapter):
    """See `from_haiku`."""

    transformed: Any = None
    takes_training: bool = True

    @property
    def _with_state(self) -> bool:
        import haiku  # whoever has such a network has it; nobody else needs it

        return isinstance(self.transformed, haiku.TransformedWithState)

    def initial(self, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        """As in `Adapter`."""
        made = self.transformed.init(key, x, *((True,) if self.takes_training else ()))
        return made if self._with_state else (made, {})

    def forward(
        self, params: Any, state: Any, x: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """As in `Adapter`."""
        inputs = (x, train) if self.takes_training else (x,)
        if self._with_state:
            return self.transformed.apply(params, state, key, *inputs)
        return self.transformed.apply(params, key, *inputs), state


@dataclasses.dataclass(frozen=True)
class ModelAdapter(Adapter):
    """A network that is an object holding its own arrays, made anew wherever its structure is needed.

    Attributes:
        make: the class, or a function that gives an object.
        options: its keyword arguments, sorted by name.
    """

    make: Callable = dict
    options: tuple[tuple[str, Any], ...] = ()


def from_nnx(make: Callable, *, num_classes: int, **options: Any) -> NNXAdapter:
    """A Flax NNX network.

    Training forwards are made after `model.train()`, which switches dropout and BatchNorm, evaluation after
    `model.eval()`. `params` are the `nnx.Param`s, `batch_stats` all other variables; random streams are fed anew.

    Args:
        make: the `nnx.Module` class, or a function that gives such an object, called
            `make(num_classes=..., **options, rngs=...)`; images [B, H, W, C] to logits.
        num_classes: K, passed on if `make` has an argument of that name.
        **options: further arguments, hashable.

    Returns:
        A network, equal to another of the same `make` and options. `variables_of` takes an existing object's variables,
        `model_of` gives an object with variables that were trained.
    """
    given = _options(make, num_classes, options)
    adapter = NNXAdapter(num_classes, True, make, given)
    return dataclasses.replace(adapter, stochastic=bool(jax.tree.leaves(adapter._split()[2])))


@dataclasses.dataclass(frozen=True)
class NNXAdapter(ModelAdapter):
    """See `from_nnx`."""

    def variables_of(self, model: nnx.Module) -> dict[str, Any]:
        """The variables of an object of this structure, `{"params": ..., "batch_stats": ...}`."""
        params, state = _pure(model)
        return {"params": params, "batch_stats": _stored(state)}

    def model_of(self, variables: Variables) -> nnx.Module:
        """An object that holds these variables."""
        return self._model(variables["params"], variables.get("batch_stats", {}), None)

    def initial(self, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        """As in `Adapter`."""
        return _pure(self._made(key))

    def forward(
        self, params: Any, state: Any, x: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """As in `Adapter`."""
        model = self._model(params, state, key)
        model.train() if train else model.eval()
        logits = model(x)
        return logits, _pure(model)[1]

    def _made(self, key: jax.Array) -> nnx.Module:
        return self.make(**dict(self.options), rngs=nnx.Rngs(key))

    def _split(self) -> Any:
        return _parts(nnx.eval_shape(lambda: self._made(jax.random.key(0))))

    def _model(self, params: Any, state: Any, key: jax.Array | None) -> nnx.Module:
        graph, like_params, like_rngs, like_state = self._split()
        key = jax.random.key(0) if key is None else key
        leaves, structure = jax.tree.flatten(like_rngs)
        fresh = [
            jax.random.split(jax.random.fold_in(key, i), leaf.shape)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(leaves)
        ]
        for like, values in ((like_params, params), (like_state, state)):
            nnx.replace_by_pure_dict(like, _filled(nnx.to_pure_dict(like), values))
        return nnx.merge(graph, like_params, jax.tree.unflatten(structure, fresh), like_state)


def _parts(model: nnx.Module) -> Any:
    """Structure, parameters, random streams and everything else."""
    return nnx.split(model, nnx.Param, nnx.RngState, ...)


def _pure(model: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    _, params, _, state = _parts(model)
    return _by_name(nnx.to_pure_dict(params)), _by_name(nnx.to_pure_dict(state))


def _names(path: tuple) -> tuple[str, ...]:
    # Layers in lists are numbered, but files and hashes want names.
    return tuple(jax.tree_util.keystr((part,), simple=True) for part in path)


def _by_name(tree: Any) -> dict[str, Any]:
    return unflatten_dict({_names(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]})


def _filled(like: Any, values: Any) -> Any:
    """`like` with the leaves of `values`, as `_by_name` names them, in their own types."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    flat = flatten_dict(values)
    return jax.tree.unflatten(structure, [jnp.asarray(flat[_names(path)]).astype(leaf.dtype) for path, leaf in paths])


def from_equinox(make: Callable, *, num_classes: int, channels_first: bool = True, **options: Any) -> EquinoxAdapter:
    """An Equinox network.

    An Equinox model takes one image. It is mapped over the batch with the axis name `batch`, which its BatchNorms must
    have, and is called `model(image)`, with `state` and `key` (None in evaluation) where it has arguments of these
    names; with `state` it returns (logits, state). Evaluation goes through `equinox.nn.inference_mode`.

    Args:
        make: the `equinox.Module` class, or a function that gives a model or (model, state), called
            `make(num_classes=..., **options, key=...)`; of a class with state, `equinox.nn.make_with_state` is taken.
        num_classes: K, passed on if `make` has an argument of that name.
        channels_first: whether the model wants images as [C, H, W], as Equinox's convolutions do; else [H, W, C].
        **options: further arguments, hashable.

    Returns:
        A network, equal to another of the same `make` and options. `variables_of` takes an existing model's variables,
        `model_of` gives a model, and its state, with variables that were trained.
    """
    given = _options(make, num_classes, options)
    adapter = EquinoxAdapter(num_classes, True, make, given, channels_first)
    return dataclasses.replace(adapter, stochastic="key" in adapter._arguments(adapter._abstract()[0]))


@dataclasses.dataclass(frozen=True)
class EquinoxAdapter(ModelAdapter):
    """See `from_equinox`."""

    channels_first: bool = True

    def variables_of(self, model: Any, state: Any = None) -> dict[str, Any]:
        """The variables of a model of this structure and of its state, `{"params": ..., "batch_stats": ...}`."""
        params, kept = self._taken(model, state)
        return {"params": params, "batch_stats": _stored(kept)}

    def model_of(self, variables: Variables) -> tuple[Any, Any]:
        """(model, state) that hold these variables; the state is None where the model has none."""
        return self._model(variables["params"], variables.get("batch_stats", {}))

    def initial(self, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        """As in `Adapter`."""
        return self._taken(*self._made(key))

    def forward(
        self, params: Any, state: Any, x: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """As in `Adapter`."""
        import equinox  # whoever has such a network has it; nobody else needs it

        model, kept = self._model(params, state)
        if not train:
            model, key = equinox.nn.inference_mode(model), None
        arguments = self._arguments(model)
        x = jnp.moveaxis(x, -1, 1) if self.channels_first else x
        keys = None if key is None else jax.random.split(key, len(x))

        def one(image, kept, key):
            inputs = {"state": kept, "key": key}
            out = model(image, **{name: inputs[name] for name in inputs if name in arguments})
            return out if "state" in arguments else (out, kept)

        over = (0, None, None if keys is None else 0)
        logits, kept = jax.vmap(one, over, (0, None), axis_name="batch")(x, kept, keys)
        return logits, self._taken(model, kept)[1]

    def _arguments(self, model: Any) -> frozenset[str]:
        return frozenset(inspect.signature(type(model).__call__).parameters)

    def _made(self, key: jax.Array) -> tuple[Any, Any]:
        import equinox

        make = self.make
        if inspect.isclass(make) and "state" in inspect.signature(make.__call__).parameters:
            make = equinox.nn.make_with_state(make)
        made = make(**dict(self.options), key=key)
        return made if isinstance(made, tuple) else (made, None)

    def _abstract(self) -> tuple[Any, Any]:
        import equinox

        return equinox.filter_eval_shape(self._made, jax.random.key(0))

    def _taken(self, model: Any, state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import equinox

        params, rest = equinox.partition(model, _is_trained)
        buffers = _by_name(equinox.filter(rest, _is_array))
        kept = {"buffers": buffers, "state": {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}}
        return _by_name(params), {name: value for name, value in kept.items() if value}

    def _model(self, params: Any, kept: Any) -> tuple[Any, Any]:
        import equinox

        model, state = self._abstract()
        trained, rest = equinox.partition(model, _is_trained)
        buffers, static = equinox.partition(rest, _is_array)
        model = equinox.combine(_filled(trained, params), _filled(buffers, kept.get("buffers", {})), static)
        leaves, structure = jax.tree.flatten(state)
        values = kept.get("state", {})
        return model, jax.tree.unflatten(structure, [values[str(i)].astype(v.dtype) for i, v in enumerate(leaves)])


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))


def _is_trained(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def arguments(make: Callable) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class or function by name.

    Raises:
        TypeError, ValueError: it cannot be asked.
    """
    if isinstance(make, nnx.module.ModuleMeta):  # whose own __call__ hides the class's arguments
        own = inspect.signature(make.__init__).parameters  # type: ignore[misc]
        return dict(list(own.items())[1:])
    return inspect.signature(make).parameters


def _options(make: Callable, num_classes: int, options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    given = dict(options)
    if "num_classes" in arguments(make):
        given["num_classes"] = num_classes
    for name, value in given.items():
        try:
            hash(value)
        except TypeError:
            raise InputError(f"{name} of {make.__qualname__} must be a plain value, not {value!r}") from None
    return tuple(sorted(given.items()))
