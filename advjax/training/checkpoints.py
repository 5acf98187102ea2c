"""Checkpoints: the last ones to resume from, the best one on the validation split, and every n-th epoch's if asked for."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from advjax import hosts
from advjax.errors import InputError, shown
from advjax.files import read_json, write_json

SCORE = "score"
INDEX = "checkpoints.json"


# What Orbax warns of at every checkpoint without a score, at every single restore, and beside a failure that is raised.
_MEANT = ("Requested `tracked_metric`", "Metadata file does not exist", "Failed to get item metadata")
logging.getLogger("absl").addFilter(lambda record: not record.getMessage().startswith(_MEANT))
logging.getLogger("asyncio").addFilter(
    lambda record: not re.search("never retrieved(?s:.*)(orbax|OCDBT|TensorStore)", record.getMessage())
)


class Damaged(InputError):
    """A checkpoint does not hold what was saved."""


class Checkpoints:
    """The folder `checkpoints/` of a run; checkpoints are numbered by steps done.

    A checkpoint appears under its name only once it is complete, so a run that is killed while saving resumes from the
    one before. The best checkpoint is the one of the highest score, the later one of equals. Beside the folder,
    `checkpoints.json` has a hash of what each holds, which every restore is held to, and what the caller wants to find
    again with it.

    With several processes (`advjax.hosts`) the folder is one that all of them see, and all of them make every call that
    opens, saves, restores or closes.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 2, every: int = 0) -> None:
        """Opens the folder, creating it if need be.

        Args:
            directory: the folder.
            keep: how many of the latest checkpoints stay.
            every: keep every checkpoint whose number is a multiple of this for good; 0 keeps none but the best.
        """
        rules = [
            policy.LatestN(keep),
            policy.BestN(n=1, get_metric_fn=lambda metrics: metrics[SCORE], keep_checkpoints_without_metrics=False),
        ]
        if every:
            rules.append(policy.EveryNSteps(every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(rules),
            best_fn=lambda metrics: metrics[SCORE],
            best_mode="max",
        )
        self._folder = directory.resolve()
        self._index = hosts.by_first(lambda: _read_index(self._folder.parent))
        hosts.by_first(lambda: _mend_scores(self._folder))
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            raise Damaged(f"{self._folder} cannot be opened ({type(error).__name__}: {error})"[:400]) from error

    @property
    def all(self) -> list[int]:
        """Numbers of all checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def strays(self) -> list[str]:
        """Names in the folder that are no checkpoints and none being written: somebody else's, which are left alone."""
        names = {path.name for path in self._folder.iterdir() if ".orbax-checkpoint-tmp" not in path.name}
        return sorted(names - {str(number) for number in self.all})

    @property
    def last(self) -> int | None:
        """Number of the last checkpoint; None if there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Number of the checkpoint with the highest score; None if none was scored."""
        return best_of(self._folder)

    @property
    def ranked(self) -> list[int]:
        """Numbers of all checkpoints that were scored, the best first; all there are, the latest first, if none was."""
        return _ranked(self._folder) or self.all[::-1]

    def save(self, step: int, state: Any, score: float | None = None, note: Mapping[str, Any] | None = None) -> None:
        """Saves in the background, in place of one of the same number; the arrays are copied before this returns.

        Args:
            step: steps done.
            state: a pytree of arrays.
            score: accuracy on the validation split, if there is one.
            note: plain values to be found again (`note_of`).

        Raises:
            OSError: it, or what was saved before, could not be written.
        """
        # The hash before the checkpoint: killed in between, there is a hash too many, which nobody asks for.
        scored = {} if score is None else {SCORE: float(score)}
        self._index[str(step)] = {"sha256": sha256(state), **scored, **(note or {})}
        kept = {str(number) for number in (*self._manager.all_steps(), step)}
        self._index = {number: entry for number, entry in self._index.items() if number in kept}
        if hosts.is_first():
            write_json(self._folder.parent / INDEX, self._index)
        metrics = None if score is None else {SCORE: score}
        with self._writing():
            if step in self._manager.all_steps():
                self._manager.wait_until_finished()
                self._manager.delete(step)
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def note_of(self, step: int) -> Mapping[str, Any]:
        """What was noted with a checkpoint."""
        return self._index.get(str(step), {})

    def restore(self, step: int, like: Any) -> Any:
        """The state of a checkpoint; `like` is a pytree of arrays or shapes of the same structure.

        Raises:
            Damaged: it does not hold what was saved.
        """
        return self._held(step, lambda: self._read(step, like))

    def restore_networks(self, step: int) -> dict[str, Any]:
        """`{"params": {name: ...}, "stats": {name: ...}}` of a checkpoint, as NumPy arrays.

        Raises:
            Damaged: it does not hold what was saved.
        """
        with ocp.StandardCheckpointer() as reader:
            saved = self._held(step, lambda: self._read(step, reader.metadata(self._item(step)).item_metadata.tree))
        return jax.tree.map(np.asarray, {"params": saved["params"], "stats": saved["stats"]})

    def _item(self, step: int) -> pathlib.Path:
        return self._folder / str(step) / "default"

    def _read(self, step: int, like: Any) -> Any:
        """The state of a checkpoint on one device, however many there were when it was saved."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))

    def _held(self, step: int, restore: Callable[[], Any]) -> Any:
        """What `restore` gives, held to the hash that was noted when it was saved."""
        where = f"checkpoint {step} in {self._folder}"
        state = failure = None
        try:
            with _unheard():
                state = restore()
        except Exception as error:  # a damaged file can fail in any way
            failure = f"{where} cannot be read ({type(error).__name__}: {error})"[:400]
        if failure is None and (known := self.note_of(step).get("sha256")) and known != sha256(state):
            failure = f"{where} is damaged: it does not hold what was saved"
        if failure := next(filter(None, hosts.gather(failure)), None):  # the same everywhere
            raise Damaged(failure)
        return state

    def put_aside(self, step: int, place: pathlib.Path) -> None:
        """Moves a checkpoint out of the folder; another one that was moved to the same place before stays."""

        def move() -> None:
            places = (place, *(place.with_name(f"{place.name}-{number}") for number in range(2, 100)))
            os.replace(self._folder / str(step), next(each for each in places if not each.exists()))

        hosts.by_first(move)
        self._manager.reload()

    def wait(self) -> None:
        """Waits for what is being saved.

        Raises:
            OSError: it, or what was saved before, could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """`wait`, for the last time."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Makes one kind of error of all that a full, lost or write-protected disk raises in the libraries below."""
        try:
            yield
        except Exception as error:
            found = re.search(r"(?:os_error_code='|^\[Errno )(\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            said = os.strerror(number) if found else " ".join(str(error).split())[:200]
            raise OSError(number, said, str(self._folder)) from error


def _read_index(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Number -> what was noted with a checkpoint: its hash, its score, what the training wants to find again."""
    place = folder / INDEX
    index = read_json(folder, INDEX) if place.exists() else {}
    for number, entry in index.items():
        if not isinstance(entry, dict):
            raise InputError(f"{place} is damaged: it does not hold a group of fields for every checkpoint")
        score, rollbacks, totals = entry.get(SCORE, 0.0), entry.get("rollbacks", 0), entry.get("totals") or {}
        sound = {
            "sha256": isinstance(entry.get("sha256", ""), str),
            SCORE: isinstance(score, (int, float)) and math.isfinite(score),
            "rollbacks": type(rollbacks) is int and rollbacks >= 0,
            "totals": isinstance(totals, dict) and all(map(_is_pair, totals.values())),
        }
        if wrong := [name for name, is_so in sound.items() if not is_so]:
            raise InputError(f"{place} is damaged: {wrong[0]} of checkpoint {number} is {shown(entry[wrong[0]])}")
    return index


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, (int, float)) for each in value)


def best_of(directory: pathlib.Path) -> int | None:
    """`Checkpoints.best` of a folder that is not opened, which several processes could only do together."""
    return next(iter(_ranked(directory)), None)


def _ranked(directory: pathlib.Path) -> list[int]:
    """Numbers of the checkpoints that were scored, the best first, of equals the later one."""
    noted = _noted_scores(directory)
    scored = {}
    for file in directory.glob("*/metrics/metrics"):
        with contextlib.suppress(ValueError):  # a stray folder
            score = noted.get(file.parts[-3], _score_in(file))
            if score is not None:
                scored[int(file.parts[-3])] = score
    return sorted(scored, key=lambda step: (scored[step], step), reverse=True)


def _noted_scores(directory: pathlib.Path) -> dict[str, float]:
    """Number -> score, as noted beside the folder; runs of earlier versions noted none."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        noted = json.loads((directory.parent / INDEX).read_text(encoding="utf-8"))
        return {step: float(entry[SCORE]) for step, entry in noted.items() if SCORE in entry}
    return {}


def _score_in(file: pathlib.Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damaged, or removed since
        return float(json.loads(file.read_text(encoding="utf-8"))[SCORE])
    return None


def _mend_scores(directory: pathlib.Path) -> None:
    """Writes damaged files of scores anew, from what is noted: Orbax opens no folder with one, and none would be best."""
    for step, score in _noted_scores(directory).items():
        file = directory / step / "metrics" / "metrics"
        if file.is_file() and _score_in(file) is None:
            with contextlib.suppress(OSError):
                write_json(file, {SCORE: score})


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Keeps Python from printing a traceback of every array that Orbax was reading beside one that it could not read.

    It lets go of them, and they fail later and in other threads: coroutines that are thrown away, a loop that is closed.
    So after a failure the hook stays.
    """
    before = sys.unraisablehook

    def unraisable(args: Any) -> None:
        # No object is named where TensorStore's threads tell the closed loop that they are done.
        closed = isinstance(args.exc_value, RuntimeError) and str(args.exc_value) == "Event loop is closed"
        code = getattr(args.object, "cr_code", None)
        if not closed and "orbax" not in getattr(code, "co_filename", ""):
            before(args)

    sys.unraisablehook = unraisable
    try:
        yield
    except Exception:
        gc.collect()
        raise
    sys.unraisablehook = before


def sha256(state: Any) -> str:
    """SHA-256 of a pytree of arrays: every leaf's path, type, shape and bytes, in the order of their paths."""
    digest = hashlib.sha256()
    leaves = {_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
    for path in sorted(leaves):
        leaf = leaves[path]
        digest.update(f"{path}{leaf.dtype}{list(leaf.shape)}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _path(path: Any) -> str:
    # A restored state without a structure of its own has dictionaries where the state had fields.
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)
