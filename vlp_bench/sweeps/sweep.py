"""Many runs, each in a fresh process with a folder of its own: what is done is skipped, what failed is tried again.

`python -m vlp_bench -m ...` ends here, through the launcher in `hydra_plugins`. A sweep keeps no state but that of its
runs' folders: killed anywhere and started again, it goes on. Several sweeps may share the work: a cell that another is
at work on is waited for, and computed here if the other does not store it.
"""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vlp_bench.lifetime import bound
from vlp_bench.runs.checkpointing import write_whole
from vlp_bench.runs.lock import PROGRESS, owner
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.spawn import RANKS, end, how_ended, inherited
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.terminal.console import console
from vlp_bench.runs.terminal.errors import BUSY, DIVERGED, FAILED, MISTAKE, UserError
from vlp_bench.spelling import count_of
from vlp_bench.sweeps.states import FAILED_FILE, LOG_FILE, STYLES, State, counted, more_of, progress_of, state_of

HOPELESS = (MISTAKE, DIVERGED)  # exit codes that another try would only repeat
LOOK_EVERY = 1.0  # seconds between two looks at cells that other processes are at work on


@dataclass(frozen=True)
class Cell:
    """One run of a sweep and the words that say it."""

    specification: Specification
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.specification.name

    @property
    def folder(self) -> Path:
        return self.specification.folder

    def state(self) -> State:
        return state_of(self.folder, self.specification.run)

    def needed(self) -> bool:
        """Whether it is to be computed: it isn't stored, or force=true."""
        return bool(self.specification.config["force"]) or self.state() != State.DONE

    def command(self) -> list[str]:
        """What a fresh process executes."""
        return [sys.executable, "-m", "vlp_bench", *self.words]


def distinct(cells: Sequence[Cell]) -> list[Cell]:
    """Each run once: dense is the same at every sparsity."""
    return list({cell.specification.run: cell for cell in cells}.values())


@dataclass
class Job:
    """A cell at work."""

    cell: Cell
    slot: int
    attempt: int
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)


Start = Callable[[Cell, dict[str, str]], subprocess.Popen[bytes]]


def fresh_process(cell: Cell, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """The run of a cell, its words in `run.log`; it ends when this process ends."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    for name in (FAILED_FILE, PROGRESS):
        (cell.folder / name).unlink(missing_ok=True)
    with open(cell.folder / LOG_FILE, "ab") as log:
        return subprocess.Popen(
            cell.command(),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=bound(),
        )


@dataclass
class Sweep:
    """Runs cells, `n_parallel` at a time, each on devices of its own.

    Args:
        cells: what is to be run; those that are done are left out.
        n_parallel: processes at a time; None: as many as the GPUs allow, one on the CPU.
        retries: how often a cell is tried again whose process was killed or failed for lack of something. A mistake in
            its words, or a training that diverged, would only fail again.
        start: begins the process of a cell.

    Raises:
        UserError: settings that cannot be, or more processes than there are GPUs for.
    """

    cells: Sequence[Cell]
    n_parallel: int | None = None
    retries: int = 1
    start: Start = fresh_process
    failures: dict[str, str] = field(default_factory=dict, init=False)
    elsewhere: list[tuple[Cell, int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if any(name in os.environ for name in RANKS[:3]):
            raise UserError("a sweep starts its own processes: do not start it with torchrun or srun")
        if self.n_parallel is not None and self.n_parallel < 1:
            raise UserError(f"hydra.launcher.n_parallel={self.n_parallel}: at least one process must do the work")
        if self.retries < 0:
            raise UserError(f"hydra.launcher.retries={self.retries}: must be 0 or more")
        self.cells = distinct(self.cells)
        self._looked = 0.0
        self.slots = _slots([Plan.of(cell.specification) for cell in self.cells], self.n_parallel)

    def perform(self) -> None:
        """Run what is not done; afterwards `failures` has the reason of each cell that failed, by name."""
        todo = [cell for cell in self.cells if cell.needed()]
        stored = len(self.cells) - len(todo)
        console.print(
            f"{count_of(len(self.cells), 'run')}: {stored} stored already, {len(todo)} to compute, "
            f"{len(self.slots)} at a time"
        )
        waiting = deque((cell, 1) for cell in todo)
        running: list[Job] = []
        with Live(console=console, refresh_per_second=1, auto_refresh=False, transient=True) as live:
            try:
                while waiting or running or self.elsewhere:
                    self._look(waiting)
                    self._fill(waiting, running)
                    time.sleep(0.1)
                    for job in [job for job in running if job.process.poll() is not None]:
                        running.remove(job)
                        self._finish(job, waiting)
                    if console.is_terminal:
                        live.update(self._table(waiting, running), refresh=True)
            finally:
                end([job.process for job in running])

    def _look(self, waiting: deque[tuple[Cell, int]]) -> None:
        """Take back the cells that other processes have left, stored or not."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        free = [pair for pair in self.elsewhere if owner(pair[0].folder) is None]
        self.elsewhere = [pair for pair in self.elsewhere if pair not in free]
        waiting.extend(free)

    def _fill(self, waiting: deque[tuple[Cell, int]], running: list[Job]) -> None:
        while waiting and len(running) < len(self.slots):
            cell, attempt = waiting.popleft()
            if not cell.needed():
                self._say("done", "green", cell, "by another sweep or command")
                continue
            if owner(cell.folder) is not None:
                self._wait_for(cell, attempt)
                continue
            slot = min(set(range(len(self.slots))) - {job.slot for job in running})
            env = inherited() | self.slots[slot]
            running.append(Job(cell, slot, attempt, self.start(cell, env)))

    def _finish(self, job: Job, waiting: deque[tuple[Cell, int]]) -> None:
        code, seconds = job.process.returncode, time.monotonic() - job.since
        if code == 0 and job.cell.state() == State.DONE:
            self._say("done", "green", job.cell, f"{seconds:.0f} s")
            return
        reason = _reason(job.cell, code)
        if code == BUSY:
            self._wait_for(job.cell, job.attempt)
            return
        if code not in HOPELESS and job.attempt <= self.retries:
            self._say("again later", "yellow", job.cell, reason)
            waiting.append((job.cell, job.attempt + 1))
            return
        write_whole(job.cell.folder / FAILED_FILE, reason.encode())
        self.failures[job.cell.name] = reason
        self._say("failed", "red", job.cell, reason)

    def _wait_for(self, cell: Cell, attempt: int) -> None:
        self.elsewhere.append((cell, attempt))
        self._say("running elsewhere", "cyan", cell, "another sweep or command is at work on it: it is waited for")

    def _say(self, what: str, style: str, cell: Cell, more: str) -> None:
        console.print(f"[{style}]{what}[/]  {cell.name}  {escape(more)}", soft_wrap=True)

    def _table(self, waiting: deque[tuple[Cell, int]], running: Sequence[Job]) -> Table:
        counts = {"running": running, "waiting": waiting, "elsewhere": self.elsewhere, "failed": self.failures}
        table = Table(box=None, title=", ".join(f"{len(of)} {what}" for what, of in counts.items()))
        for name in ("run", "for", "try", "how far"):
            table.add_column(name)
        for job in running:
            seconds = f"{time.monotonic() - job.since:.0f} s"
            table.add_row(job.cell.name, seconds, str(job.attempt), progress_of(job.cell.folder) or "preparing")
        return table


def _slots(plans: Sequence[Plan], wanted: int | None) -> list[dict[str, str]]:
    """The environment of each process that may run at a time: its share of the GPUs, or of the threads."""
    cores = os.cpu_count() or 1
    if not any(plan.gpu for plan in plans):
        count = wanted or 1
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
        return [{"OMP_NUM_THREADS": threads} for _ in range(count)]
    import torch

    each = max(plan.devices for plan in plans)
    shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = shown.split(",")
    count = len(gpus) // each if wanted is None else wanted
    if not count or count * each > len(gpus):
        raise UserError(
            f"{max(1, count)} runs at a time of {each} GPU(s) each need more than the {len(gpus)} that are there"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[n * each : (n + 1) * each])} for n in range(count)]


def _reason(cell: Cell, code: int) -> str:
    """Why the process of a cell failed: how it ended, and the last line it wrote."""
    if code == 0:
        return f"it ended without a result in {cell.folder}: was the code or the configuration changed meanwhile?"
    how = how_ended(code)
    log = cell.folder / LOG_FILE
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f"{how}: {lines[-1].strip()}" if lines and code > 0 else how


def overview(cells: Sequence[Cell]) -> Table:
    """A row for each cell with its state, and why it failed."""
    table = Table(title=counted(cell.state() for cell in cells))
    for name in ("run", "state", "how far, or why not"):
        table.add_column(name, overflow="fold")
    for cell in cells:
        state = cell.state()
        more = more_of(cell.folder, cell.specification.run, state)
        table.add_row(cell.name, f"[{STYLES[state]}]{state}[/]", escape(more))
    return table


def sweep(cells: Sequence[Cell], *, n_parallel: int | None, retries: int, start: Start = fresh_process) -> None:
    """Perform a sweep and say what came of it; SystemExit(1) unless every cell has its rows."""
    whole = Sweep(cells, n_parallel, retries, start)
    whole.perform()
    console.print(overview(whole.cells))
    if whole.failures or any(cell.state() != State.DONE for cell in whole.cells):
        console.print("the log of a run is run.log in its folder; the same command tries the failed ones again")
        raise SystemExit(FAILED)
