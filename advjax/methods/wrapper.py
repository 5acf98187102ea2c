"""Methods that change a part of another method and hand on the rest."""

from __future__ import annotations

import dataclasses
from typing import Any

from advjax.methods.base import Context, Method


@dataclasses.dataclass(frozen=True)
class Wrapper(Method):
    """The method `base` itself; a wrapper overrides what it changes, and everything else of the contract is the base's.

    A wrapper with a phase or a state of its own keeps it beside the base's and overrides `inner`, which gives the base
    the context that it would have without the wrapper.

    Attributes:
        base: the method that is wrapped, which may be a wrapper.
    """

    base: Method

    def inner(self, context: Context) -> Context:
        """The context as the base is to see it."""
        return context


def _forward(name: str) -> Any:
    """What hands the part `name` of the contract on to the base: a property, or a method, contexts made the base's."""
    if isinstance(getattr(Method, name), property):
        return property(lambda self: getattr(self.base, name))

    def call(self: Wrapper, *args: Any) -> Any:
        return getattr(self.base, name)(*(self.inner(a) if isinstance(a, Context) else a for a in args))

    return call


for _name in [name for name in vars(Method) if not name.startswith("_")]:
    setattr(Wrapper, _name, _forward(_name))
