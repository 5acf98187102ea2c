"""Weights of examples by how close they are to being fooled, around any method that asks for them: GAIRAT, MAIL."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.errors import InputError
from advjax.fields import at_least, between, field
from advjax.methods.base import Context, reached
from advjax.methods.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Weighting(Wrapper):
    """The wrapped method, its examples weighted from an epoch on in the part of its loss that is about x'.

    That part is the cross-entropy of PGD-AT and DYNAT's target (there: our choice), TRADES's KL, MART's whole loss.
    Attack, forwards and statistics are the method's; no gradient flows through the weights.
    """

    start: float = field(0.5, between(0, 1), "fraction of the run at which the weights begin")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.base.weighable:
            raise InputError(f"must be a method that weights its examples, and once alone, not {self.base}", "base")

    @property
    def divisible(self) -> bool:
        return False

    @property
    def weighable(self) -> bool:
        return False

    @property
    def soft_labels(self) -> bool:
        return False

    def own_phase(self, epoch: int, epochs: int) -> Hashable:
        return reached(self.start, epoch, epochs)

    def inner(self, context: Context) -> Context:
        active, _ = self.own(context)
        return dataclasses.replace(super().inner(context), weigh=self.weigh if active else None)

    def weigh(self, context: Context, logits: jax.Array, name: str) -> jax.Array:
        """The weights [B], from the context, the training-mode logits of x' and the name of the network attacked."""
        raise NotImplementedError

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        # A weight is of the batch and of training; an attack has no use for it.
        return self.base.adaptive_loss(Wrapper.inner(self, context), network, x_adv)


@dataclasses.dataclass(frozen=True)
class GAIRAT(Weighting):
    """GAIRAT (Zhang et al. 2021): examples that the attack fools after few steps count more.

        kappa = at how many of the K points where the attack takes a gradient the image is classified correctly
        w     = (tanh(lambda + 5 (K//2 - kappa)/(K//2)) + 1)/2,    divided by its mean over the batch

    Source: the authors' code, around PGD-AT without a clean forward; from epoch 60 of 120, plain before.

    Attributes:
        start: the weights begin with epoch round(start * epochs), counted from 1.
        shift: lambda.
    """

    start: float = field(0.5, between(0, 1), "fraction of the run at which the weights begin")
    shift: float = field(-1.0, help="lambda, added inside the tanh")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._attacker.attack.steps < 2:
            raise InputError("must be at least 2 for GAIRAT, which divides by its half", "attack.steps")

    @property
    def _attacker(self):
        base = self.base
        while isinstance(base, Wrapper):
            base = base.base
        return base

    def inner(self, context: Context) -> Context:
        active, _ = self.own(context)
        return dataclasses.replace(super().inner(context), counting=active)

    def weigh(self, context: Context, logits: jax.Array, name: str) -> jax.Array:
        half = self._attacker.attack.steps // 2
        survived = context.nets[name].survived
        w = (jnp.tanh(self.shift + 5.0 * (half - survived) / half) + 1.0) / 2.0
        return w / context.mean(w)


@dataclasses.dataclass(frozen=True)
class MAIL(Weighting):
    """MAIL (Wang et al. 2021): examples with a small or negative probabilistic margin under attack count more.

        w = 3 sigmoid(slope (max_{k != y} p_k(x') - p_y(x') + bias))

    p is taken in training mode, from the forward that gives the loss. Source: the authors' code; from epoch 77 of 120,
    counted from 1, plain before. MAIL-AT: the defaults, around PGD-AT without a clean forward; MAIL-TRADES: slope 2,
    bias 0, around TRADES (beta 5) with the forwards clean, adversarial.

    Attributes:
        start: the weights begin with epoch round(start * epochs), counted from 1.
        slope: see above.
        bias: see above.
        normalise: divide w by its mean over the batch. The authors' code does not; short runs at a high learning rate
            then end at uniform predictions, where all weights are near 0.
    """

    start: float = field(77 / 120, between(0, 1), "fraction of the run at which the weights begin")
    slope: float = field(10.0, at_least(0), "how steeply the weight rises with the margin")
    bias: float = field(-0.5, help="added to the margin")
    normalise: bool = field(False, help="divide the weights by their mean over the batch")

    def weigh(self, context: Context, logits: jax.Array, name: str) -> jax.Array:
        margin = losses.margin(jax.nn.softmax(logits.astype(jnp.float32)), context.batch.label)
        w = 3.0 * jax.nn.sigmoid(self.slope * (margin + self.bias))
        return w / context.mean(w) if self.normalise else w
