"""The batches of a training set that is larger than memory, decoded ahead by worker processes.

    course = Course(seed=0, count=len(train.label), batch_size=256, epochs=100, first=5000)
    for batch in stream(train, course, workers=8): ...

Which examples a step takes is a function of (seed, step) alone, that of `epoch_order`: a run that resumes begins at its
step and reads nothing before it, and each of several hosts reads its own part of each batch.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from advjax.data.base import Split
from advjax.data.order import epoch_order
from advjax.data.pictures import Pictures
from advjax.errors import InputError

# Examples that a worker hands over at once: few, so that the first batch comes soon and little lies in buffers.
_PIECE = 32
# Pieces that lie ready at each worker.
_READY = 2


class Streamed(NamedTuple):
    """A batch, or one host's part of it, in main memory.

    Attributes:
        image: uint8 [B, H, W, C].
        label: int32 [B].
        rows: int32 [B], rows of the training set.
        weight: float32 [B], 0 for padding.
    """

    image: np.ndarray
    label: np.ndarray
    rows: np.ndarray
    weight: np.ndarray


# A permutation of the whole set is made once an epoch, by every process.
_order = functools.lru_cache(maxsize=2)(epoch_order)


@dataclasses.dataclass(frozen=True)
class Course:
    """Which examples the steps of a run take.

    Attributes:
        seed: of the run.
        count: examples in the training set.
        batch_size: global batch size.
        epochs: length of the run.
        first: steps that are done.
        host: (index, number): which part of each batch this is, of how many equal ones, cut in order.
    """

    seed: int
    count: int
    batch_size: int
    epochs: int
    first: int = 0
    host: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.batch_size % self.host[1]:
            raise InputError(f"must be a multiple of the {self.host[1]} hosts, it is {self.batch_size}", "batch_size")

    @property
    def steps(self) -> range:
        """The steps that are left, counted from 0."""
        return range(self.first, self.epochs * self.per_epoch)

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch, the last one padded."""
        return -(-self.count // self.batch_size)

    @property
    def share(self) -> int:
        """Examples of each batch that are this host's."""
        return self.batch_size // self.host[1]

    def batch(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The epoch of a step, and rows and weights of this host's part of its batch."""
        epoch, index = divmod(step, self.per_epoch)
        own = slice(self.host[0] * self.share, (self.host[0] + 1) * self.share)
        rows, weight = _order(self.seed, epoch, self.count, self.batch_size)
        return epoch, rows[index, own], weight[index, own]


class _Pieces:
    """The pieces of all batches, one after the other, decoded on access: what grain's workers share out."""

    def __init__(self, pictures: Pictures, course: Course) -> None:
        self.pictures, self.course = pictures, course
        self.per_batch = -(-course.share // _PIECE)

    def __len__(self) -> int:
        return len(self.course.steps) * self.per_batch

    def __getitem__(self, index: int) -> np.ndarray | str:
        step, piece = divmod(index, self.per_batch)
        epoch, rows, _ = self.course.batch(self.course.steps[step])
        rows = rows[piece * _PIECE : (piece + 1) * _PIECE]
        try:
            return np.stack([self.pictures.sample(int(row), self.course.seed, epoch) for row in rows])
        except InputError as error:
            return str(error)


def stream(train: Split, course: Course, workers: int = 0) -> Generator[Streamed, None, None]:
    """The batches of the steps that are left, in their order. To be closed: processes are at work until then.

    Args:
        train: the training set; its images are `Pictures`.
        course: which examples each step takes.
        workers: processes that decode; 0: this one does, when a batch is asked for.

    Raises:
        InputError: a picture that cannot be decoded; a worker that was killed; no grain.
    """
    pieces = _Pieces(train.image, course)  # type: ignore[arg-type]
    decoded = _decoded(pieces, workers)
    try:
        for step in course.steps:
            _, rows, weight = course.batch(step)
            yield Streamed(_together(decoded, pieces.per_batch), train.label[rows], rows, weight)
    except RuntimeError as error:
        raise InputError(f"data.workers: a process that decodes pictures ended ({error})") from None
    finally:
        decoded.close()


def _together(decoded: Any, count: int) -> np.ndarray:
    """The next pieces as one array, outside of the memory that is shared with the workers."""
    pieces = list(itertools.islice(decoded, count))
    for piece in pieces:
        if isinstance(piece, str):
            raise InputError(piece)
    return np.concatenate(pieces)


def _decoded(pieces: _Pieces, workers: int) -> Any:
    if not workers:
        return (pieces[index] for index in range(len(pieces)))
    try:
        import grain
    except ImportError as error:
        raise InputError(f"data.streaming needs grain, which fails to import ({error}): pip install grain") from error
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads flags of its own, which nobody parses outside of a command
    made = grain.MapDataset.source(pieces).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    decoded = iter(made.mp_prefetch(grain.MultiprocessingOptions(workers, _READY), worker_init_fn=_begin))
    return _Begun(decoded)


class _Begun:
    """A stream of grain's whose workers no Ctrl-C and no SIGTERM reaches.

    Terminals, systemd, Slurm and `timeout` signal all processes of a run. It is its affair to finish its step, for which it
    needs its workers, and to end them. They are started, at the first element, by a thread that blocks both signals; what
    it starts inherits that, so that there is no moment at which a worker could be hit.
    """

    def __init__(self, decoded: Any) -> None:
        self.decoded: Any = decoded
        self.first = True
        atexit.register(self.close)  # of a stream that nobody closes, while grain can still clear up

    def __iter__(self) -> _Begun:
        return self

    def __next__(self) -> Any:
        if not self.first:
            return next(self.decoded)
        self.first = False
        resource_tracker.ensure_running()  # by the thread it would be started with both signals unblocked afterwards
        blocked = signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM)
        with concurrent.futures.ThreadPoolExecutor(1, "workers", signal.pthread_sigmask, blocked) as thread:
            return thread.submit(next, self.decoded).result()

    def close(self) -> None:
        """Ends the workers."""
        atexit.unregister(self.close)
        if self.decoded is not None:
            self.decoded.close()
        self.decoded = None  # or what is left of it clears up after Python's modules have gone


def _begin(index: int, count: int) -> None:
    """What a worker does first: accelerators are the parent's affair, and no parent, no worker."""
    del index, count
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
