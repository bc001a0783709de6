"""How far a run is: read from its folder, so that any process can tell."""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from vlp_bench.results.store import Store
from vlp_bench.runs.lock import PROGRESS, owner

FAILED_FILE = ".failed"  # what a sweep leaves in the folder of a cell whose process failed: the reason
LOG_FILE = "run.log"
CHECKPOINT = "last.ckpt"


class State(StrEnum):
    """Of a run, from the best to the worst."""

    DONE = "done"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    MISSING = "missing"
    FAILED = "failed"


STYLES = {
    State.DONE: "green", State.RUNNING: "cyan", State.INTERRUPTED: "yellow", State.MISSING: "dim", State.FAILED: "red",
}  # fmt: skip


def state_of(folder: Path, run: str) -> State:
    """The state of the run `run` whose folder this is."""
    store = Store(folder.parent)
    if store.done(run, folder.name):
        return State.DONE
    if owner(folder) is not None:
        return State.RUNNING
    if (folder / FAILED_FILE).is_file() or any(row.status == "ERR" for row in store.last(run, folder.name)):
        return State.FAILED
    return State.INTERRUPTED if (folder / CHECKPOINT).is_file() else State.MISSING


def reason_of(folder: Path, run: str) -> str:
    """Why a run failed, in a line; empty if nothing is known."""
    if (folder / FAILED_FILE).is_file():
        return (folder / FAILED_FILE).read_text(encoding="utf-8", errors="replace").strip()
    return "; ".join(row.message for row in Store(folder.parent).last(run, folder.name) if row.message)


def progress_of(folder: Path) -> str:
    """How far the process is that is at work there: "epoch 2 of 10, step 130 of 640"; empty before it trains."""
    try:
        return (folder / PROGRESS).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def more_of(folder: Path, run: str, state: State) -> str:
    """What a table says beside the state: how far it is, or why it failed."""
    if state == State.RUNNING:
        return progress_of(folder)
    return reason_of(folder, run) if state == State.FAILED else ""


def counted(states: Iterable[State]) -> str:
    """'12 done, 2 running, 1 failed': every state that occurs."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
