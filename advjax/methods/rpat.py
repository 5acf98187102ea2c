"""RPAT: adversarial training that asks for a linear way from x to x', around any method with a loss per example."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from advjax.errors import InputError
from advjax.fields import at_least, field
from advjax.methods.base import Aux, Context, PerExample, accuracy
from advjax.methods.pgd_at import PGDAT
from advjax.methods.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class RPAT(Wrapper):
    """min base's loss + lam MSE(f((x + x')/2), (f(x) + f(x'))/2), of the logits, a mean over examples and classes.

    No gradient is stopped. Training forwards: the base's, then the middle, then clean unless the base had it. RPAT++ is
    `ReBAT` with its `regulariser` "middle".

    Source: the authors' code on AT (adversarial, middle, clean); on TRADES the middle comes last [ours].

    Attributes:
        base: PGD-AT, TRADES or another method of one network with a loss per example.
        lam: weight of the new term.
    """

    base: PerExample = PGDAT(clean_statistics=False)
    lam: float = field(1.0, at_least(0), "weight of the distance to the linear way")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.base, PerExample):
            raise InputError(f"must be a method of one network and a loss per example, not {self.base}", "base")

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        whole, context, x = context, self.inner(context), context.batch.image
        logits, net = self.base.forwards(context, adversarial)
        middle, net = net.train((x + self.base.images(adversarial)) / 2.0)
        if "clean" not in logits:
            clean, net = net.train(x)
            logits = {**logits, "clean": clean}
        values, metrics = self.base.example_losses(context, logits, context.target)
        bend = jnp.mean((middle - (logits["clean"] + logits["robust"]) / 2.0) ** 2, -1)
        state = self.base.new_state(context, adversarial, logits)
        metrics |= {"bend": context.metric(bend), **accuracy(context, **logits)}
        aux = self.handed_on(whole, Aux({"model": net}, state, metrics))
        return context.mean(values + self.lam * bend), aux

    def proxy_loss(self, context: Context, adversarial: Any, key: jax.Array) -> jax.Array:
        return self.loss(context, adversarial, key)[0]
