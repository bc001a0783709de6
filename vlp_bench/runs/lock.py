"""One process at a time in a run's folder, and what killed processes leave behind in folders."""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlp_bench.runs.errors import UserError

LOCK = ".lock"
PROGRESS = ".progress"  # how far the process at work is; it means nothing once that has ended
LEFT = re.compile(r"\.[^.].*\.(\w{8}|tmp)|\.progress")  # half-written files are named so (`write_whole`)
_joined: dict[Path, int] = {}  # folder -> descriptor of its lock, held until this process ends


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends.

    What a killed process has left half-written there is removed first.

    Raises:
        UserError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            process = file.read().strip() or "unknown"
            raise UserError(
                f"{folder}: another run (process {process}) is at work there; wait for it or end it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _clear(folder)
        yield


def join(root: Path, shared: Iterable[Path]) -> None:
    """Be one of the processes that write into `shared`, folders below `root`, until this process ends.

    Who comes while no other is there removes what killed writers have left; nobody removes what a live one writes.
    """
    if root in _joined:
        return
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in shared:
            _clear(folder)
    except BlockingIOError:
        pass
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    _joined[root] = descriptor


def _clear(folder: Path) -> None:
    for path in folder.glob(".*"):
        if LEFT.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def owner(folder: Path) -> str | None:
    """The number of the process that holds a folder, of this machine or of another that sees it; None if none does."""
    try:
        with open(folder / LOCK, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "unknown"
    except FileNotFoundError:
        pass
    return None
