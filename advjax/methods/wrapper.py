"""Methods that change a part of another method and hand on the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

from advjax.methods.base import Aux, Context, Method, Network, State


@dataclasses.dataclass(frozen=True)
class Wrapper(Method):
    """The method `base` itself; a wrapper overrides what it changes, and everything else of the contract is the base's.

    One convention lets any wrapper go around any other: the phase of a wrapped method is the pair (base's, own), and so
    are both parts of its state, whether or not there is anything of the wrapper's own. A wrapper says in `own_phase` and
    `own_state` what it adds, reads it by `own`, and calls the base with `inner(context)`.

    Attributes:
        base: the method that is wrapped, which may be a wrapper.
    """

    base: Method

    def own_phase(self, epoch: int, epochs: int) -> Hashable:
        """What the wrapper adds to the phase, see `Method.phase`."""
        del epoch, epochs
        return None

    def own_state(self, labels: np.ndarray, num_classes: int) -> State:
        """What the wrapper adds to the state, see `Method.init_state`."""
        del labels, num_classes
        return State()

    def phase(self, epoch: int, epochs: int) -> Hashable:
        return self.base.phase(epoch, epochs), self.own_phase(epoch, epochs)

    def init_state(self, labels: np.ndarray, num_classes: int) -> State:
        return _paired(self.base.init_state(labels, num_classes), self.own_state(labels, num_classes))

    def inner(self, context: Context) -> Context:
        """The context as the base is to see it: with its phase and its state."""
        return dataclasses.replace(context, phase=context.phase[0], state=_part(context.state, 0))

    def own(self, context: Context) -> tuple[Any, State]:
        """The wrapper's own phase and state."""
        return context.phase[1], _part(context.state, 1)

    def outer(self, context: Context, base: State | None = None, own: State | None = None) -> State:
        """The whole state, from new states of the base or the wrapper; None leaves a part as `context` has it."""
        return _paired(base or _part(context.state, 0), own or _part(context.state, 1))

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        value, aux = self.base.loss(self.inner(context), adversarial, key)
        return value, self.handed_on(context, aux)

    def handed_on(self, context: Context, aux: Aux) -> Aux:
        """What a loss of the base handed back, with the wrapper's state, which stays, beside the base's."""
        return aux if aux.state is None else aux._replace(state=self.outer(context, aux.state))

    def after_epoch(self, context: Context) -> tuple[Mapping[str, Network], State | None]:
        nets, state = self.base.after_epoch(self.inner(context)) if self.base.ends(context.phase[0]) else ({}, None)
        return nets, None if state is None else self.outer(context, state)

    def ends(self, phase: Any) -> bool:
        return self.base.ends(phase[0])

    def recomputed(self, phase: Any) -> tuple[str, ...]:
        return self.base.recomputed(phase[0])


def _paired(base: State, own: State) -> State:
    return State((base.shared, own.shared), (base.per_example, own.per_example))


def _part(state: State, index: int) -> State:
    return State(state.shared[index], state.per_example[index])


def _forward(name: str) -> Any:
    """What hands the part `name` of the contract on to the base: a property, or a method, contexts made the base's."""
    if isinstance(getattr(Method, name), property):
        return property(lambda self: getattr(self.base, name))

    def call(self: Wrapper, *args: Any) -> Any:
        return getattr(self.base, name)(*(self.inner(a) if isinstance(a, Context) else a for a in args))

    return call


for _name in [name for name in vars(Method) if not name.startswith("_") and name not in vars(Wrapper)]:
    setattr(Wrapper, _name, _forward(_name))
