"""Several processes that work as one, such as those on the hosts of a TPU pod slice or of a cluster.

`join` makes this process one of them, by JAX's coordinator; without it there is one, and everything here is trivial. What
the processes tell each other, in words and small numbers, goes through the coordinator and not through devices, so that
it works where a device waits for a process that is gone. A thread of every process listens for the others: one that
falls silent ends them all, with a line that says which, as does one that ends by an error.

`gather`, `by_first` and `together` are called by all processes, in the same order.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import importlib
import itertools
import json
import os
import pathlib
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from advjax.errors import Gone, InputError, Stopped

AUTO, OFF = "auto", "off"
ALLOWED = "auto, off, or COORDINATOR:PORT,COUNT,INDEX such as 10.0.0.1:9876,4,0"
_PREFIX = "advjax"
_SEEN_WITHIN = 5.0  # seconds that a shared folder may take to show a new file
_BEATS = 5  # of a process within the time after which it counts as gone


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among the others.

    Attributes:
        coordinator: HOST:PORT at which process 0 brings them together.
        count: how many there are.
        index: of this one, from 0.
        local: ids of the devices that it may use; None: all of its host.
    """

    coordinator: str
    count: int
    index: int
    local: list[int] | None = None


def parse(hosts: str) -> Place | None:
    """The place that `config.hosts` says; None for `auto` and `off`.

    Raises:
        InputError: it says something else.
    """
    if hosts in (AUTO, OFF):
        return None
    coordinator, *numbers = hosts.split(",")
    host, _, port = coordinator.rpartition(":")
    whole = len(numbers) == 2 and all(number.strip().isdigit() for number in (port, *numbers))
    if not (host and whole and int(port) < 2**16 and int(numbers[1]) < int(numbers[0])):
        raise InputError(f"must be {ALLOWED} with INDEX below COUNT, it is {hosts!r}", "hosts")
    return Place(coordinator, int(numbers[0]), int(numbers[1]))


def _of_cluster(timeout: float) -> Place | None:
    """What a TPU pod, Slurm, Open MPI or another cluster that JAX knows says of this process; None for a single one."""
    kinds = importlib.import_module("jax._src.clusters").ClusterEnv._cluster_types
    found = [each for each in kinds if not each.opt_in_only_method and each.is_env_present()]
    if not found or found[0].get_process_count() < 2:
        return None
    cluster, port = found[0], os.environ.get("JAX_COORDINATOR_PORT")
    address = cluster.get_coordinator_address(timeout_secs=int(timeout), override_coordinator_port=port)
    # JAX gives every process of Slurm and Open MPI a single device, even where it has its host to itself.
    own = cluster.get_local_process_id()
    local = [own] if own is not None and _processes_of_this_host() > 1 else None
    return Place(address, cluster.get_process_count(), cluster.get_process_id(), local)


def _processes_of_this_host() -> int:
    """How many of the processes share a host, by what Open MPI or Slurm (`2(x3),1`) says; 1 where neither does."""
    said = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("SLURM_STEP_TASKS_PER_NODE") or "1"
    return max(int(part.partition("(")[0]) for part in said.split(","))


class _World:
    """The processes, as one of them sees them."""

    def __init__(self, place: Place, timeout: float) -> None:
        self.place, self.timeout = place, timeout
        # Not public, but the only store that needs no devices.
        self.store: Any = importlib.import_module("jax._src.distributed").global_state.client
        self.calls, self.depth, self.names = itertools.count(), 0, [""] * place.count
        self.ended: dict[int, tuple[int, Mapping[str, Any]]] = {}  # process -> the look that saw it, what it said
        self.quiet = dict.fromkeys(self.others, 0)  # process -> looks since its last beat
        self.looks, self.over = 0, threading.Event()
        self.interval = min(timeout / _BEATS, 5.0)
        self.thread = threading.Thread(target=self._listen, name="hosts", daemon=True)

    @property
    def others(self) -> list[int]:
        return [index for index in range(self.place.count) if index != self.place.index]

    def named(self, index: int) -> str:
        """How a line calls a process."""
        name = f" on {self.names[index]}" if self.names[index] else ""
        return f"process {index} of {self.place.count}{name}"

    def gather(self, value: Any) -> list[Any]:
        number = next(self.calls)
        self.store.key_value_set(f"{_PREFIX}/{number}/{self.place.index}", json.dumps(value))
        return [json.loads(self._wait(f"{_PREFIX}/{number}/{index}")) for index in range(self.place.count)]

    def _wait(self, key: str) -> str:
        while True:
            try:
                return self.store.blocking_key_value_get(key, int(1000 * self.interval))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
                self.check()

    def check(self) -> None:
        """Raises what another process ended by, if one did."""
        for index, (_, said) in sorted(self.ended.items()):
            if said["kind"] == "done":
                continue
            line = f"{self.named(index)}: {said['line']}"
            if said["kind"] == "input":
                raise InputError(line)
            if said["kind"] == "stopped":
                raise Stopped(said["status"] - 128, line)
            raise Gone(line)

    def end(self, error: BaseException | None) -> None:
        """Tells the others that, and by what, this process ends."""
        kind, status, line = "failed", 1, f"{type(error).__name__}: {error}"
        if isinstance(error, InputError):
            kind, status, line = "input", 2, str(error)
        elif isinstance(error, Stopped):
            kind, status, line = "stopped", 128 + error.signal, str(error)
        elif error is None:
            kind, status, line = "done", 0, ""
        said = {"kind": kind, "status": status, "line": " ".join(line.split())[:600]}
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.store.key_value_set(f"{_PREFIX}/end/{self.place.index}", json.dumps(said))

    def wait_for_ends(self) -> None:
        """Waits until every other process ended, too, so that none misses the coordinator; not for ever."""
        until = time.monotonic() + self.timeout
        while len(self.ended) < len(self.others) and time.monotonic() < until:
            time.sleep(self.interval / 10)

    def blame(self) -> None:
        """Waits until it is known which process is gone and ends with that; returns where none is."""
        look = self.looks
        while self.looks < look + 2 * _BEATS:
            self.check()
            time.sleep(self.interval / 2)

    def _listen(self) -> None:
        """Beats, and looks at the others' beats; looks are counted, not seconds, since this process may be asleep, too."""
        beats: dict[str, str] = {}
        while not self.over.wait(self.interval):
            self.looks += 1
            try:
                own = f"{_PREFIX}/beat/{self.place.index}"
                self.store.key_value_set(own, str(self.looks), allow_overwrite=True)
                now = dict(self.store.key_value_dir_get(f"{_PREFIX}/beat"))
                ends = self.store.key_value_dir_get(f"{_PREFIX}/end")
            except jax.errors.JaxRuntimeError:
                now, ends = beats, []
            for index in self.others:
                key = f"{_PREFIX}/beat/{index}"
                self.quiet[index] = self.quiet[index] + 1 if now.get(key) == beats.get(key) else 0
            beats = now
            for key, said in ends:
                self.ended.setdefault(int(key.rpartition("/")[2]), (self.looks, json.loads(said)))
            self.ended.pop(self.place.index, None)
            self._act()

    def _act(self) -> None:
        silent = [index for index in self.others if self.quiet[index] > _BEATS and index not in self.ended]
        if silent:
            self._give_up(self.lost(silent), 1)
        for index, (look, said) in self.ended.items():
            # The others come to the same end by themselves, unless they wait for what it never sends.
            if said["kind"] != "done" and self.looks > look + 2 * _BEATS:
                self._give_up(f"{self.named(index)}: {said['line']}", said["status"])

    def lost(self, silent: list[int]) -> str:
        who = ", ".join(map(self.named, silent))
        return f"{who} is gone, not heard of for {self.timeout:g} s; the same command goes on from what is saved"

    def _give_up(self, line: str, status: int) -> None:
        print(f"error: {line}", file=sys.stderr, flush=True)
        if self.place.index == 0:
            time.sleep(2 * self.interval)  # the coordinator goes last, so that every process finds out by itself
        os._exit(status)

    def leave(self) -> None:
        """At the interpreter's end."""
        self.end(None)
        self.over.set()
        self.thread.join(self.interval + 1)


_world: _World | None = None
_aborted: Any = None  # kept, since C holds no reference


def _speak_when_aborted(place: Place) -> None:
    """XLA aborts a process at once that cannot join, or whose coordinator is gone; this says so and ends it in order."""
    global _aborted

    def aborted(number: int) -> None:
        if _world is None:
            end = _lonely(place), 2
        elif _answers(place.coordinator):
            return  # it aborts for a reason of its own
        else:
            end = f"{_world.named(0)}, the coordinator, is gone; the same command goes on from what is saved", 1
        os.write(2, f"error: {end[0]}\n".encode())
        os._exit(end[1])

    _aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)


def _lonely(place: Place) -> str:
    return f"hosts: process {place.index} of {place.count} did not find all others at {place.coordinator}"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        for _ in range(10):  # of a process that dies, the connections may be closed before the port is
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            time.sleep(0.2)
    except OSError:
        return False
    return True


def join(hosts: str = AUTO, timeout: float = 60.0) -> None:
    """Makes this process one of several, if `hosts` says so; before JAX touches a device. Once joined, it changes nothing.

    Args:
        hosts: `auto`: TPU pod slices, Slurm, Open MPI and what else JAX knows by itself, and one process elsewhere;
            `off`: one process; or `COORDINATOR:PORT,COUNT,INDEX`.
        timeout: seconds after which a process that is not heard of is gone, and all others end.

    Raises:
        InputError: the others are not found.
    """
    global _world
    if _world is not None or hosts == OFF:
        return
    place = parse(hosts) or _of_cluster(5 * timeout)
    if place is None or place.count < 2:
        return
    # Its handler would take SIGTERM, which a run takes itself.
    jax.config.update("jax_enable_preemption_service", False)
    _speak_when_aborted(place)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            local_device_ids=place.local,
            cluster_detection_method="deactivate",
            initialization_timeout=round(5 * timeout),
            # Ours comes first, and says more.
            heartbeat_timeout_seconds=round(3 * timeout) + 10,
            shutdown_timeout_seconds=round(timeout) + 1,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{_lonely(place)}: {str(error).splitlines()[0]}") from None
    _world = _World(place, timeout)
    _world.thread.start()
    atexit.register(_world.leave)
    _world.names = _world.gather(socket.gethostname())


def count() -> int:
    """How many processes work as one."""
    return _world.place.count if _world else 1


def index() -> int:
    """Which of them this one is, from 0."""
    return _world.place.index if _world else 0


def is_first() -> bool:
    """Whether this is the one that writes and prints."""
    return index() == 0


def name(number: int) -> str:
    """How a line calls a process."""
    return _world.named(number) if _world else "process 0 of 1"


def gather(value: Any) -> list[Any]:
    """What every process gives, in their order, as JSON keeps it; waits for all.

    Raises:
        InputError, Stopped, Gone: what another process ended by.
    """
    return _world.gather(value) if _world else [value]


def by_first(function: Callable[[], Any]) -> Any:
    """What `function` gives on the first process, the only one that calls it, on all; waits for all.

    What it raises there ends all others, too.
    """
    if _world is None:
        return function()
    return gather(function() if is_first() else None)[0]


def check() -> None:
    """Raises what another process ended by, if one did; for long work of one's own between two `gather`s."""
    if _world:
        _world.check()


def check_same(what: Mapping[str, Any]) -> None:
    """Raises `InputError` on every process unless all have the same: name -> plain value."""
    said = gather(what)
    for number, other in enumerate(said[1:], start=1):
        different = [key for key in {**said[0], **other} if said[0].get(key) != other.get(key)]
        if different:
            fields = "; ".join(f"{key}: {said[0].get(key)!r} and {other.get(key)!r}" for key in different[:3])
            raise InputError(f"{name(0)} and {name(number)} differ, and must not ({fields})")


def check_shared(folder: str | os.PathLike[str], field: str) -> None:
    """Raises `InputError` on every process unless all see what the first writes into `folder`, which is there on the first.

    Otherwise checkpoints wait for parts that never come, and an evaluation loses the outcomes of the others.
    """
    if _world is None:
        return

    def mark() -> str:
        name = f".seen-{secrets.token_hex(8)}"
        (pathlib.Path(folder) / name).touch()
        return name

    name = by_first(mark)
    place, until = pathlib.Path(folder) / name, time.monotonic() + _SEEN_WITHIN
    while not (seen := place.exists()) and time.monotonic() < until:
        time.sleep(0.1)
    blind = [number for number, each in enumerate(gather(seen)) if not each]
    by_first(lambda: place.unlink(missing_ok=True))
    if blind:
        raise InputError(
            f"must be one folder that all {_world.place.count} processes see; {_world.named(blind[0])} does not see "
            f"what {_world.named(0)} writes to {folder}",
            field,
        )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What this process does in it, all do, and none leaves before the others; one that fails ends them all."""
    if _world is None or _world.depth:
        yield
        return
    _world.depth += 1
    try:
        yield
        _world.gather(None)
    except BaseException as error:
        cause: BaseException = error
        if isinstance(error, jax.errors.JaxRuntimeError):
            # A device that waits for a process that is gone fails, too, but does not say which it is.
            try:
                _world.blame()
            except (InputError, Stopped, Gone) as found:
                cause = found
        _world.end(cause)
        _world.wait_for_ends()
        if cause is not error:
            raise cause from None
        raise
    finally:
        _world.depth -= 1
