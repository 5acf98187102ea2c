"""Averages of a network over the steps or epochs of its training, around any method: EMA, SWA, SEAT."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from advjax.errors import InputError
from advjax.fields import at_least_below, between, field, one_of
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Method, Network, State, reached
from advjax.methods.pgd_at import PGDAT
from advjax.methods.wrapper import Wrapper


def mixed(old: Any, new: Any, share: jax.typing.ArrayLike) -> Any:
    """share old + (1 - share) new, leaf by leaf."""
    return jax.tree.map(lambda a, b: share * a + (1.0 - share) * b, old, new)


def _with(context: Context, state: State | None) -> Context:
    return context if state is None else dataclasses.replace(context, state=state)


@dataclasses.dataclass(frozen=True)
class Averaging(Wrapper):
    """The wrapped method, and beside every trained network NAME that it evaluates an average, `NAME_ema` or `NAME_swa`.

    The averages are evaluated before the networks themselves; of peers, they alone.
    """

    suffix: ClassVar[str] = "average"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise InputError(f"must be a method that evaluates a network that it trains, not {self.base}", "base")
        if not self.base.averaged.keys().isdisjoint(self.sources):
            raise InputError(f"must not be averaged by {self.suffix} already, it is {self.base}", "base")

    @property
    def sources(self) -> Mapping[str, str]:
        """Name of each average -> the network that it is of."""
        return {f"{name}_{self.suffix}": name for name in self.base.evaluated if name in self.base.trained}

    @property
    def averaged(self) -> Mapping[str, str]:
        return {**self.base.averaged, **self.sources}

    @property
    def evaluated(self) -> tuple[str, ...]:
        return (*self.sources, *(() if self.base.interchangeable else self.base.evaluated))

    def own_state(self, labels: np.ndarray, num_classes: int) -> State:
        # How often the averages have been moved.
        return State(shared=jnp.zeros((), jnp.int32))

    def ends(self, phase: Any) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class EMA(Averaging):
    """EMA: an exponential average, v <- d v + (1 - d) w, of every evaluated network after each step.

    d is `decay`; with `warmup` min(decay, (1 + m)/(10 + m)), m averaging steps done before. Until `start` v is w. The
    statistics of v are averaged likewise, or those of w.

    Sources: SEAT's code (decay 0.999, warm-up, statistics averaged), DM's (0.995, warm-up, statistics of w, start
    11/400; there m is one more, the last copy being already the first average), DKL's (0.9, of epochs, from the first
    on, statistics averaged).

    Attributes:
        decay: d.
        warmup: whether d grows as above.
        start: averaging begins with epoch round(start * epochs), counted from 1.
        statistics: `"average"`, or `"copy"`: those of the network itself.
        every: `"step"`, or `"epoch"`: v moves at the end of each epoch only.
    """

    suffix: ClassVar[str] = "ema"

    decay: float = field(0.999, at_least_below(0, 1), "share of the old average")
    warmup: bool = field(False, help="whether the share grows from 1/10 by (1 + m)/(10 + m)")
    start: float = field(0.0, between(0, 1), "fraction of the run before which the average is the network itself")
    statistics: str = field("average", one_of("average", "copy"), "BatchNorm's, of the average")
    every: str = field("step", one_of("step", "epoch"), "when the average moves")

    def own_phase(self, epoch: int, epochs: int) -> Hashable:
        return reached(self.start, epoch, epochs)

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        value, aux = super().loss(context, adversarial, key)
        active, own = self.own(context)
        last = context.group == len(self.update_groups) - 1
        if not (active and last and self.every == "step"):
            return value, aux
        return value, aux._replace(state=self.outer(_with(context, aux.state), own=State(own.shared + 1)))

    def after_update(self, context: Context, adversarial: Any) -> Mapping[str, Network]:
        moved = self.base.after_update(self.inner(context), adversarial)
        if self.every == "epoch":
            return moved
        active, own = self.own(context)
        return {**moved, **self._averages(context.with_nets(moved), own.shared - 1, active)}

    def ends(self, phase: Any) -> bool:
        return self.every == "epoch" or self.base.ends(phase[0])

    def after_epoch(self, context: Context) -> tuple[Mapping[str, Network], State | None]:
        moved, state = super().after_epoch(context)
        if self.every == "step":
            return moved, state
        active, own = self.own(context)
        averages = self._averages(context.with_nets(moved), own.shared, active)
        return {**moved, **averages}, self.outer(_with(context, state), own=State(own.shared + active))

    def _averages(self, context: Context, done: jax.Array, active: bool) -> dict[str, Network]:
        share: jax.typing.ArrayLike = self.decay
        if self.warmup:
            share = jnp.minimum(share, (1.0 + done) / (10.0 + done))
        averages = {}
        for name, source in self.sources.items():
            old, new = context.nets[name], context.nets[source]
            if active:
                stats = mixed(old.stats, new.stats, share) if self.statistics == "average" else new.stats
                new = new.with_params(mixed(old.params, new.params, share)).with_stats(stats)
            averages[name] = old.with_params(new.params).with_stats(new.stats)
        return averages


@dataclasses.dataclass(frozen=True)
class SWA(Averaging):
    """SWA: the equal-weight average of every evaluated network over the ends of the epochs from `start` on.

    The average's statistics are made anew at the end of each of these epochs: their mean over one pass over its clean,
    augmented images, each batch counting the same. Before, the average is the network itself.

    Sources: Izmailov et al. 2018; the code of KD+SWA (start 56/200) and of SAAD (95/200).

    Attributes:
        start: averaging begins with epoch round(start * epochs), counted from 1.
    """

    suffix: ClassVar[str] = "swa"

    start: float = field(0.5, between(0, 1), "fraction of the run before which the average is the network itself")

    def own_phase(self, epoch: int, epochs: int) -> Hashable:
        return reached(self.start, epoch, epochs)

    def after_epoch(self, context: Context) -> tuple[Mapping[str, Network], State | None]:
        moved, state = super().after_epoch(context)
        context = context.with_nets(moved)
        active, own = self.own(context)
        count = own.shared.astype(jnp.float32)
        averages = {}
        for name, source in self.sources.items():
            old, new = context.nets[name], context.nets[source]
            params = mixed(old.params, new.params, count / (count + 1.0)) if active else new.params
            averages[name] = old.with_params(params).with_stats(new.stats)
        return {**moved, **averages}, self.outer(_with(context, state), own=State(own.shared + active))

    def recomputed(self, phase: Any) -> tuple[str, ...]:
        return (*self.base.recomputed(phase[0]), *(self.sources if phase[1] else ()))


@dataclasses.dataclass(frozen=True)
class SEAT(EMA):
    """SEAT (Wang & Wang 2022): adversarial training, and the EMA of the network, with warm-up, as what it is about.

    min CE(f(x'), y); after each step t, from 0, parameters and statistics of the average move by
    v <- d v + (1 - d) w, d = min(0.999, (t + 1)/(t + 10)). Training forwards: the base's (the authors': adversarial).

    Attributes:
        base: the method whose network is averaged.
    """

    base: Method = PGDAT(TrainingAttack(eps="0.031", step_size="0.007"), clean_statistics=False)
    warmup: bool = field(True, help="whether the share grows from 1/10 by (1 + m)/(10 + m)")
