"""Running attacks on many images in batches of few sizes, over all devices, without working on what is settled.

An attack here is a hashable loop body with per-example state, every example at its own iteration. So a row whose
example is settled can be given to the next one at any time, and whatever the batch, the same thing happens to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from advjax import compiling
from advjax.attacks.engine.inputs import NON_FINITE, as_array, check_choice, check_labels, default_ids
from advjax.attacks.engine.loops import repeat
from advjax.attacks.engine.oracle import Example, Oracle, Problem
from advjax.parallel import Devices


class LoopBody(Protocol):
    """What an attack has to offer to run in batches; equal for equal programs.

    Attributes:
        ticks: of a whole run; a call is at least one of them.
        chunk: calls between two looks at who is done.
        forwards_per_tick, backwards_per_tick: passes per example and tick, at most.
    """

    @property
    def ticks(self) -> int: ...

    @property
    def chunk(self) -> int: ...

    @property
    def forwards_per_tick(self) -> int: ...

    @property
    def backwards_per_tick(self) -> int: ...

    def begin(self, e: Example, key: jax.Array) -> Any:
        """The first state, a NamedTuple with at least ticks, done, success and x_adv."""

    def __call__(self, i: int, state: Any, e: Example, oracle: Oracle, key: jax.Array, /) -> Any:
        """The state at least one tick later; rows that are done stay as they are."""


@partial(jax.jit, static_argnums=0)
def _begin(attack: LoopBody, e: Example, key: jax.Array) -> Any:
    return attack.begin(e, key)


def run_alone(
    attack: LoopBody,
    problem: Problem,
    key: jax.Array,
    ids: Any = None,
    target: Any = None,
    trial: int = 0,
    non_finite: str = "broken",
) -> Any:
    """The last state of an attack on one batch, every example run to its end; inside `jit` or on its own."""
    check_choice(non_finite, "non_finite", NON_FINITE)
    x, y = jnp.asarray(problem.x, jnp.float32), jnp.asarray(problem.y, jnp.int32)
    n = len(x)
    eps = jnp.broadcast_to(jnp.asarray(problem.eps, jnp.float32), (n,))
    if target is not None:
        target = as_array(target, "target")
        check_labels(target, problem.num_classes, n, "target")
    goal = y if target is None else jnp.asarray(target, jnp.int32)
    e = Example(x, y, eps, default_ids(ids, n), jnp.full(n, trial, jnp.int32), goal)
    oracle = Oracle(problem.logits_fn, non_finite=non_finite)
    with compiling.for_arrays(x, key), compiling.products("highest"):
        return repeat(attack, attack.ticks, _begin(attack, e, key), e, oracle, key)


class Images(NamedTuple):
    """The images under attack, on the host: x [N, H, W, C], y [N], ids [N], targets [N, T], eps a number."""

    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray
    targets: np.ndarray
    eps: float

    def rows(self, images: np.ndarray, trials: np.ndarray) -> Example:
        """The examples of these images and trials; more restarts than targets begin anew with them."""
        known = self.targets.shape[1]
        target = self.targets[images, trials % known] if known else self.y[images]
        eps = np.full(len(images), self.eps, np.float32)
        on_host: list[Any] = [
            self.x[images], self.y[images], eps, self.ids[images], trials.astype(np.int32), target,
        ]  # fmt: skip
        return Example(*on_host)


class Attempt(NamedTuple):
    """What came of one trial (restart or target) on one image; `x_adv` only of a success."""

    image: int
    trial: int
    success: bool
    ticks: int
    zero_gradient: bool
    non_finite: bool
    x_adv: np.ndarray | None


class _Batch:
    """The rows that are under attack now: which pairs, the attack's state, and which rows are still running."""

    def __init__(self, attack: LoopBody, oracle: Oracle, key: jax.Array, images: Images, devices: Devices):
        self.attack, self.oracle, self.key, self.images, self.devices = attack, oracle, key, images, devices
        self.body = devices.spread(attack)
        self.pairs = np.zeros((0, 2), np.int64)
        self.running = np.zeros(0, bool)
        self.ticks = np.zeros(0, np.int32)
        self.state: Any = None
        self.examples: Any = None

    def load(self, fresh: list[tuple[int, int]], size: int) -> None:
        """The running rows and the fresh pairs become a batch of `size`, padded with copies that are done."""
        kept = np.flatnonzero(self.running)
        pairs = np.concatenate([self.pairs[kept], np.asarray(fresh, np.int64).reshape(-1, 2)])
        used = np.arange(size) < len(pairs)
        pairs = np.concatenate([pairs, np.repeat(pairs[:1], size - len(pairs), 0)])
        self.examples = self.devices.shard(self.images.rows(pairs[:, 0], pairs[:, 1]))
        state = jax.device_get(_begin(self.attack, self.examples, self.key))
        if len(kept):
            old = jax.device_get(self.state)
            state = jax.tree.map(lambda new, old: np.concatenate([old[kept], new[len(kept) :]]), state, old)
        self.state = self.devices.shard(state._replace(done=state.done | ~used))
        self.pairs, self.running, self.ticks = pairs, used, state.ticks

    def advance(self) -> list[Attempt]:
        """Runs until the next look, never past the end of the row that is furthest; what is settled since."""
        steps = min(self.attack.chunk, self.attack.ticks - int(self.ticks[self.running].max()))
        self.state = repeat(self.body, steps, self.state, self.examples, self.oracle, self.key, donate=True)
        self.ticks, done, success = jax.device_get((self.state.ticks, self.state.done, self.state.success))
        rows = np.flatnonzero(self.running & done)
        if not len(rows):
            return []
        self.running[rows] = False
        found = jax.device_get(self.state.x_adv) if success[rows].any() else None
        no = np.zeros(len(done), bool)
        zero, strange = jax.device_get([getattr(self.state, flag, no) for flag in ("zero_gradient", "non_finite")])
        return [
            Attempt(
                image=int(self.pairs[row, 0]),
                trial=int(self.pairs[row, 1]),
                success=bool(success[row]),
                ticks=int(self.ticks[row]),
                zero_gradient=bool(zero[row]),
                non_finite=bool(strange[row]),
                x_adv=found[row] if found is not None and success[row] else None,
            )
            for row in rows
        ]

    @property
    def left(self) -> int:
        """Ticks until the row that is furthest behind is through."""
        return self.attack.ticks - int(self.ticks[self.running].min())


def run_all(
    attack: LoopBody,
    oracle: Oracle,
    key: jax.Array,
    images: Images,
    work: Sequence[tuple[int, int]],
    wanted: Callable[[int, int], bool],
    *,
    batch_size: int,
    devices: Devices,
) -> Iterator[list[Attempt]]:
    """Runs an attack on (image, trial) pairs, in their order as far as batches allow, and yields what is known when.

    Args:
        attack: which.
        oracle: the network, on every device.
        key: random key, on every device.
        images: all images.
        work: the pairs.
        wanted: whether a pair still matters; asked before it starts, and again after every yield.
        batch_size: rows of a batch.
        devices: where.
    """
    queue = deque(pair for pair in work if wanted(*pair))
    sizes = devices.sizes(batch_size, len(queue))
    size = sizes[0]
    passes = attack.forwards_per_tick + attack.backwards_per_tick
    tick = passes * oracle.flops(images.x.shape[1:]) / len(devices)
    batch = _Batch(attack, oracle, key, images, devices)
    while queue or batch.running.any():
        free = size - int(batch.running.sum())
        fresh: list[tuple[int, int]] = []
        # Loading costs a copy of the whole state, so a few free rows wait for more.
        if free == size or free >= max(size // 8, 1):
            while queue and len(fresh) < free:
                pair = queue.popleft()
                if wanted(*pair):
                    fresh.append(pair)
        rows = size - free + len(fresh)
        if rows == 0:
            return
        fitting = size if queue else min(s for s in sizes if s >= rows)
        left = attack.ticks if fresh else batch.left
        # The size of the first batch has to be compiled in any case.
        if batch.state is not None and not compiling.pays((size - fitting) * left * tick):
            fitting = size
        # Another size is another compilation, so the last few ticks stay where they are.
        if fresh or (fitting < size and batch.left >= min(20, attack.ticks // 2)):
            size = fitting
            batch.load(fresh, size)
        yield batch.advance()
        for row in np.flatnonzero(batch.running):
            batch.running[row] = wanted(*batch.pairs[row])
