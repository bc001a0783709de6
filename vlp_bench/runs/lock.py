"""One process at a time in a run's folder, and what killed processes leave behind in folders.

The locks are POSIX record locks. They belong to a process: those that prepare its batches do not inherit them, the
system lets go of them however the process ends, and who holds one can be asked without taking it.
"""

import fcntl
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlp_bench.runs.terminal.errors import UserError

LOCK = ".lock"
PROGRESS = ".progress"  # how far the process at work is; it means nothing once that has ended
LEFT = re.compile(r"\.[^.].*\.(\w{8}|tmp)|\.progress")  # half-written files are named so (`write_whole`)
_held: dict[tuple[int, Path], int] = {}  # process, file -> descriptor; closing any other of the file would unlock it


class InUse(UserError):
    """Another process is at work in a folder; the same command works once it has ended."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends.

    What a killed process has left half-written there is removed first.

    Raises:
        InUse: another process, or this one already, is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(folder)
    if (os.getpid(), file) in _held:
        raise _in_use(folder, str(os.getpid()))
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _taken(descriptor, fcntl.LOCK_EX):
            raise _in_use(folder, _named(descriptor))
        _held[os.getpid(), file] = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        _clear(folder)
        yield
    finally:
        _held.pop((os.getpid(), file), None)
        os.close(descriptor)


def join(root: Path, shared: Iterable[Path]) -> None:
    """Be one of the processes that write into `shared`, folders below `root`, until this process ends.

    Who comes while no other is there removes what killed writers have left; nobody removes what a live one writes.
    """
    root.mkdir(parents=True, exist_ok=True)
    file = _file(root)
    if (os.getpid(), file) in _held:
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    if _taken(descriptor, fcntl.LOCK_EX):
        for folder in shared:
            _clear(folder)
    fcntl.lockf(descriptor, fcntl.LOCK_SH)
    _held[os.getpid(), file] = descriptor


def owner(folder: Path) -> str | None:
    """The number of the process that holds a folder, of this machine or of another that sees it; None if none does.

    Looking takes no lock: it never keeps another process from starting.
    """
    file = _file(folder)
    if (os.getpid(), file) in _held:
        return str(os.getpid())
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _named(descriptor) if _is_locked(descriptor) else None
    finally:
        os.close(descriptor)


def _file(folder: Path) -> Path:
    return folder.resolve() / LOCK


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the system likes
        return False
    return True


def _is_locked(descriptor: int) -> bool:
    """Whether another process holds a lock; the system answers with a `struct flock`, whose layout is its own."""
    if sys.platform == "linux":
        layout, question, kind = "hhqqi4x", (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0), 0
    else:  # macOS, BSD
        layout, question, kind = "qqihh", (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET), 3
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, *question))
    return struct.unpack(layout, answer)[kind] != fcntl.F_UNLCK


def _named(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"


def _in_use(folder: Path, process: str) -> InUse:
    return InUse(f"{folder}: another run (process {process}) is at work there; wait for it or end it")


def _clear(folder: Path) -> None:
    for path in folder.glob(".*"):
        if LEFT.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
