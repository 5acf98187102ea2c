"""Many runs, one after the other or a share of them: what is finished is skipped, what fails is named, the rest goes on."""

from __future__ import annotations

import collections
import itertools
import pathlib
import time
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from advjax.errors import InputError, InUse, Stopped
from advjax.files import write_atomically
from advjax.runs.display import Display
from advjax.runs.finish import finish
from advjax.runs.interrupts import LOCK
from advjax.runs.schema import Config
from advjax.runs.workdir import is_finished

FAILED = "failed.txt"
WAIT_SECONDS = 20.0


class Member(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: its folder's name.
        label: its row in the table, the same for all its seeds.
        seed: its seed.
        config: what is run.
    """

    name: str
    label: str
    seed: int
    config: Config


def check_names(members: Sequence[Member]) -> None:
    """Raises `InputError` if two members have one folder."""
    for name, count in collections.Counter(member.name for member in members).items():
        if count > 1:
            raise InputError(f"{count} members of the sweep have the folder {name}: their configs must differ in name")


def is_done(member: Member, root: pathlib.Path) -> bool:
    """Whether the member's report is there, of exactly its config."""
    return is_finished(root / member.name, member.config)


def status(member: Member, root: pathlib.Path) -> str:
    """`done`, `failed: why`, `running`, `begun` or `missing`."""
    folder = root / member.name
    if is_done(member, root):
        return "done"
    if (folder / f"{LOCK}.json").exists():
        return "running"
    if (folder / FAILED).exists():
        return f"failed: {(folder / FAILED).read_text(encoding='utf-8').strip().splitlines()[-1]}"
    return "begun" if (folder / "config.json").exists() else "missing"


def finish_all(
    members: Sequence[Member], root: pathlib.Path, display: Display, shard: tuple[int, int] = (0, 1)
) -> dict[str, str]:
    """Finishes every n-th member from the i-th on, in order; a member's teachers that are members come before it.

    Several processes may work on one root, each on its shard: a member that another process is at, or whose teacher it is
    at, is put off until that is done.

    Args:
        members: all of the sweep.
        root: folder of their folders.
        display: the terminal.
        shard: (i, n).

    Returns:
        Name of a member that failed -> why, one line; its traceback lies in its folder, in `failed.txt`.

    Raises:
        Stopped: by SIGTERM or SIGINT; everything is saved.
    """
    by_folder = {str(root / member.name): member for member in members}
    waiting = collections.deque(itertools.islice(members, shard[0], None, shard[1]))
    failed: dict[str, str] = {}
    put_off = 0
    while waiting:
        member = waiting.popleft()
        try:
            _finish(member, by_folder, root, display, failed)
        except InUse as error:
            waiting.append(member)
            put_off += 1
            if put_off >= len(waiting):
                display.line(f"waiting: {error}")
                time.sleep(WAIT_SECONDS)
                put_off = 0
        else:
            put_off = 0
    return failed


def _finish(
    member: Member, by_folder: dict[str, Member], root: pathlib.Path, display: Display, failed: dict[str, str]
) -> None:
    """Finishes a member's teachers, then the member, unless it failed before; a failure goes into `failed`."""
    if member.name in failed:
        return
    for teacher in member.config.teachers.values():
        if needed := by_folder.get(teacher.path):
            _finish(needed, by_folder, root, display, failed)
            if needed.name in failed:
                failed[member.name] = f"its teacher {needed.name} failed"
                return
    if is_done(member, root):
        return
    folder = root / member.name
    display.line(f"=== {member.name}")
    try:
        finish(member.config, folder, display)
        (folder / FAILED).unlink(missing_ok=True)
    except (InUse, Stopped):
        raise
    except Exception as error:
        failed[member.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FAILED, traceback.format_exc())
        display.line(f"failed: {member.name}: {failed[member.name]}")
