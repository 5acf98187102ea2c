"""A run whose workdir is an address: it works in a folder of this machine, and what it makes goes to the address.

Every promise about files is kept in the folder, by the code that keeps it for any run; a thread copies. Stores of objects
show a file whole or not at all, but know neither folders nor renaming. So a checkpoint goes there before
`checkpoints.json` names it, is named only once all of it is there, and is named no longer before it is removed:
whenever this process ends, what is there can be gone on from.

Beside the files, `.mirror.json` says whose folder the last ones came from. While a process is at work it changes every
few seconds; another one that finds it changing stays away, and one that finds it still goes on in its place. There is no
lock that could not be broken: of two processes that begin in the same instant, one notices within seconds, and stops.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from advjax import remote
from advjax.errors import InputError, InUse
from advjax.files import users_cache, write_atomically
from advjax.runs.display import Display
from advjax.runs.interrupts import LOCK, Interrupts

STATE = ".mirror.json"
INDEX, CHECKPOINTS, REPORT = "checkpoints.json", "checkpoints", "report.json"
BEAT = 15.0  # seconds between signs of life
LOOK = 2.0  # seconds between looks for a new checkpoint
REST = 60.0  # seconds after which other files that changed are copied
SILENT = 4  # beats without one, after which a process is gone
LARGE = 2**26  # bytes from which on a file is not read into memory
TRIES = 3  # at the end, before it is an error

_Mark = list[Any]  # what changes with a file of the folder


class Mirror:
    """The folder that stands for an address.

    Attributes:
        address: the address.
        folder: where this machine works on it.
    """

    def __init__(self, address: str | os.PathLike[str], field: str = "workdir") -> None:
        """Asks nothing of the address yet.

        Raises:
            InputError: no such protocol, or its package is not installed.
        """
        self._store = remote.Store(address, field)
        self.address = self._store.address
        number = hashlib.sha256(self.address.encode()).hexdigest()[:12]
        self.folder = users_cache() / "runs" / f"{self._store.name}-{number}"
        self._sent: dict[str, _Mark] = {}  # file there -> the mark of the one here that it is a copy of
        self._token, self._usurper, self._beats = "", "", itertools.count()
        self._over, self._busy = threading.Event(), threading.Lock()

    def report(self) -> dict[str, Any] | None:
        """What `report.json` at the address says; None if there is none.

        Raises:
            InputError: it cannot be reached.
        """
        try:
            return _parsed(self._store.read(REPORT)) or None
        except OSError as error:
            raise InputError(f"workdir {self.address} cannot be read: {error.strerror or error}") from None

    @contextlib.contextmanager
    def working(self, display: Display, interrupts: Interrupts) -> Iterator[None]:
        """Makes the folder what is at the address, and copies there what changes in it, until all is there.

        A folder that the last files at the address came from is taken as it is, with what did not get there. The caller
        is alone in the folder (`interrupts.alone`).

        Args:
            display: hears of copies that fail, which are tried again, and of the last.
            interrupts: is told to stop if another process goes on in this one's place.

        Raises:
            InUse: another process is at work there, or went on in this one's place.
            InputError: the address cannot be read or written.
            OSError: not all could be copied in the end.
        """
        try:
            self._begin(display)
        except OSError as error:
            raise InputError(f"workdir {self.address} cannot be worked in: {error.strerror or error}") from None
        threads = [
            threading.Thread(target=self._beat, args=(interrupts,), name="mirror-beat", daemon=True),
            threading.Thread(target=self._watch, args=(display,), name="mirror", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
            self._end()
            display.line(f"all is at {self.address}")

    def _begin(self, display: Display) -> None:
        note = _parsed(_read(self.folder / STATE))
        there = _parsed(self._store.read(STATE))
        ours = bool(note) and note.get("token") == there.get("token")
        if there.get("open") and not ours:
            self._wait_for(there, display)
        if ours:
            self._token, self._sent = note["token"], note["sent"]
        else:
            self._fetch()
            self._token = uuid.uuid4().hex
            self._note()
        self._say(True)

    def _wait_for(self, there: dict[str, Any], display: Display) -> None:
        """Returns once the process that says it is at work there has been silent for long enough.

        Raises:
            InUse: it is not.
        """
        display.line(f"{self.address}: {_who(there)} did not say that it ended; is it still at work?")
        until = time.monotonic() + SILENT * BEAT
        while time.monotonic() < until:
            time.sleep(BEAT / 5)
            if _parsed(self._store.read(STATE)) != there:
                raise InUse(
                    f"workdir {self.address} is in use by {_who(there)}: wait for it, or choose another --workdir"
                )
        display.line(f"{self.address}: it is not; this process goes on from what it left")

    def _fetch(self) -> None:
        """Makes the folder what is at the address."""
        for entry in self.folder.iterdir():
            if entry.name.startswith(LOCK):
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        there = [name for name in self._store.find() if name != STATE]
        texts = {name: self._store.read(name) or b"" for name in there if pathlib.PurePosixPath(name).name == INDEX}
        named = {name.removesuffix(INDEX): _parsed(text) for name, text in texts.items()}
        wanted = [name for name in there if (of := _checkpoint_of(name)) is None or of[1] in named.get(of[0], ())]
        self._store.get(wanted, self.folder)
        marks: dict[str, _Mark] = {name: _mark(self.folder / name) for name in wanted}
        marks |= {name: [text.decode()] for name, text in texts.items()}
        # The others are parts of checkpoints that were on their way there, or out: this folder's first copy removes them.
        self._sent = {name: marks.get(name, []) for name in there}

    def _say(self, at_work: bool) -> None:
        content = {
            "token": self._token,
            "open": at_work,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "beat": next(self._beats),
        }
        self._store.write(STATE, json.dumps(content).encode())

    def _note(self) -> None:
        write_atomically(self.folder / STATE, json.dumps({"token": self._token, "sent": self._sent}))

    def _is_ours(self) -> bool:
        there = _parsed(self._store.read(STATE))
        if there.get("token") in (self._token, None):
            return True
        self._usurper = _who(there)
        return False

    def _beat(self, interrupts: Interrupts) -> None:
        while not self._over.wait(BEAT):
            try:
                if self._is_ours():
                    self._say(True)
                    continue
            except OSError:  # said by the thread that copies
                continue
            interrupts.signal = signal.SIGTERM
            return

    def _watch(self, display: Display) -> None:
        checkpoints: dict[pathlib.Path, _Mark] = {}  # as of the last copy
        copied, failed = time.monotonic(), False
        while not self._over.wait(LOOK) and not self._usurper:
            now = self._checkpoints()
            if now == checkpoints and time.monotonic() < copied + REST:
                continue
            try:
                if not self._is_ours():
                    return
                self.copy()
            except OSError as error:
                if not failed:
                    display.warning(f"{self.address}: {error.strerror or error}; it is tried again, the run goes on")
                failed, copied = True, time.monotonic()
                continue
            if failed:
                display.line(f"{self.address}: reached again, all is there")
            copied, checkpoints, failed = time.monotonic(), now, False

    def _end(self) -> None:
        """The last copy, and leave."""
        for tried in range(1, TRIES + 1):
            try:
                if self._usurper or not self._is_ours():
                    raise InUse(
                        f"workdir {self.address}: {self._usurper} went on in this process's place; what this one did since "
                        f"is in {self.folder} alone"
                    )
                self.copy()
                return self._say(False)
            except OSError as error:
                if tried == TRIES:
                    raise OSError(
                        error.errno, f"{error.strerror or error}; all is in {self.folder}", self.address
                    ) from error
                time.sleep(LOOK)

    def copy(self) -> None:
        """Copies what changed in the folder since the last time.

        Raises:
            OSError: not everything could be.
        """
        with self._busy:
            while not self._copied():
                pass

    def _copied(self) -> bool:
        """One try; False where a checkpoint was removed meanwhile."""
        files, indices = self._scan()
        marks = {**files, **{name: [text] for name, text in indices.items()}}
        changed = [name for name, mark in marks.items() if self._sent.get(name) != mark]
        gone = [name for name in self._sent if name not in marks]
        if not changed and not gone:
            return True
        parts = [name for name in changed if _checkpoint_of(name)]
        last = [name for name in changed if name in indices] + [name for name in changed if name == REPORT]
        try:
            # Were this process killed now, what is there in part would still be known, to be removed.
            self._sent = {**{name: [] for name in changed}, **self._sent}
            self._note()
            if parts:
                self._store.put(parts, self.folder)
            for name in [each for each in changed if each not in {*parts, *last}] + last:
                if name in indices:
                    self._store.write(name, indices[name].encode())
                elif files[name][0] > LARGE:
                    self._store.put([name], self.folder)
                else:  # what is appended to meanwhile must not be sent with a length that is no longer right
                    self._store.write(name, (self.folder / name).read_bytes())
        except FileNotFoundError:
            return False
        for name in gone:
            self._store.remove(name)
        self._sent = marks
        self._note()
        return True

    def _checkpoints(self) -> dict[pathlib.Path, _Mark]:
        """The checkpoints that are whole, the run's own and its teachers'."""
        folders, found = [self.folder / CHECKPOINTS, *self.folder.glob(f"teachers/*/{CHECKPOINTS}")], {}
        for path in (each for folder in folders for each in folder.glob("*") if each.name.isdigit()):
            with contextlib.suppress(FileNotFoundError):
                found[path] = _mark(path)
        return found

    def _scan(self) -> tuple[dict[str, _Mark], dict[str, str]]:
        """Marks of the files that belong there, and the text of every `checkpoints.json`: of the checkpoints that are
        whole, each as it belongs to the files."""
        whole: dict[str, dict[str, dict[str, _Mark]]] = {}  # folder of the run -> number -> its files
        files: dict[str, _Mark] = {}
        texts: dict[str, str] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.name.startswith((LOCK, STATE)) or path.name.endswith(".partial"):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed since
                if not path.is_file():
                    continue
                if of := _checkpoint_of(name):
                    if of[1].isdigit():
                        whole.setdefault(of[0], {}).setdefault(of[1], {})[name] = _mark(path)
                elif path.name == INDEX:
                    texts[name] = path.read_text(encoding="utf-8")
                else:
                    files[name] = _mark(path)
        before: dict[tuple[str, str], set[str]] = {}
        for name in self._sent:
            if of := _checkpoint_of(name):
                before.setdefault(of, set()).add(name)
        for run, numbers in whole.items():
            for number, found in list(numbers.items()):
                if set(found) < before.get((run, number), set()):
                    del numbers[number]  # it is being removed
                else:
                    files |= found
        indices = {}
        for name, text in texts.items():
            kept, entries = whole.get(name.removesuffix(INDEX), {}), _parsed(text.encode())
            (sent,) = self._sent.get(name) or [""]
            for number, entry in _parsed(sent.encode()).items():
                # A checkpoint that is about to be replaced has its entry already.
                if number in entries and all(
                    self._sent.get(each) == mark for each, mark in kept.get(number, {}).items()
                ):
                    entries[number] = entry
            indices[name] = json.dumps({n: entry for n, entry in entries.items() if n in kept}, indent=2) + "\n"
        return files, indices


def _checkpoint_of(name: str) -> tuple[str, str] | None:
    """The run (`""`, or `teachers/ROLE/`) and the number of the checkpoint that a file is a part of; None for others."""
    parts = name.split("/")
    for place in (0, 2):
        if len(parts) > place + 2 and parts[place] == CHECKPOINTS and (not place or parts[0] == "teachers"):
            return "".join(f"{part}/" for part in parts[:place]), parts[place + 1]
    return None


def _mark(path: pathlib.Path) -> _Mark:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _read(path: pathlib.Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _parsed(content: bytes | None) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(content or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _who(there: dict[str, Any]) -> str:
    return f"process {there.get('process')} on {there.get('host')}"
