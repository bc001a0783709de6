"""Two sweeps share a folder, and one cell is killed at a random moment: every cell is stored once, or somebody says so.

    python -m benchmarks.endurance.kill_cells [--kills 10] [--seed 0] [--fresh] [words of a multirun]

The sweeps are one command, typed twice: twelve cells of the embedded world (three pruners, two sparsities, two seeds, a
recipe of one epoch on 96 images), whose batches are prepared by two processes each (`data.num_workers=2`). After a
random share of the cells and a random part of a second the process of a random cell at work is killed with SIGKILL, and
nothing else. In the end every cell must have its rows once, and no sweep may end with exit code 0 otherwise. Every kill
is a folder of its own. Cells are forks of this process, so that imports are paid for once; with --fresh the two sweeps
are real commands. Exit code 0 if all went well, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.endurance.forked import forked
from benchmarks.endurance.kill_anywhere import SLOW
from benchmarks.endurance.kill_sweep import computed

if TYPE_CHECKING:
    from vlp_bench.sweeps.sweep import Cell

TWELVE = (
    "+exp=xvlm_itr", "benchmark=mini", "trainer=cpu", "recipe.epochs=1", "data.num_workers=2", "data.source.train=96",
    "data.source.val=8", "data.source.test=8", "data.source.general=16", "data.source.regions=16",
    "data.calibration.num_batches=2", "data.calibration.batch_size=8", "task.k_test=4", "pruner=omp,lamp,multiflow",
    "sparsity=0.63,0.9", "seed=0,1",
)  # fmt: skip
Start = Callable[[], int]


@dataclass(frozen=True)
class Ended:
    """What came of two sweeps and a kill."""

    killed: str
    codes: tuple[int, ...]
    results: dict[str, int]

    def wrong(self) -> list[str]:
        """What went wrong, in words."""
        lacking = [name for name, count in self.results.items() if not count]
        found = [f"{name} was stored {count} times" for name, count in self.results.items() if count > 1]
        found += [f"{name} has no rows" for name in lacking]
        if lacking and 0 in self.codes:
            found.append(f"a sweep ended with exit code 0 although {len(lacking)} cells have no rows")
        return found + ([f"exit codes {self.codes} although every cell is stored"] if any(self.codes) else [])


def by_fork(cells: Sequence[Cell]) -> int:
    """A sweep in a fork of this process, its cells in forks of that; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child uses none of them
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        from vlp_bench.runs.terminal.errors import one_line
        from vlp_bench.sweeps.sweep import sweep

        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        with one_line():
            sweep(cells, n_parallel=1, retries=1, start=forked)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def by_command(words: Sequence[str], log: Path) -> int:
    """A sweep as it is typed; its number."""
    child = os.fork()
    if not child:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.execv(sys.executable, [sys.executable, "-m", "vlp_bench", "-m", *words])
    return child


def endure(cells: Sequence[Cell], start: Start, chance: random.Random) -> Ended:
    """Start two sweeps of the cells, kill one cell, wait for the sweeps."""
    sweeps = [start(), start()]
    victim = _kill_one(cells, sweeps, chance)
    codes = tuple(os.waitstatus_to_exitcode(os.waitpid(sweep, 0)[1]) for sweep in sweeps)
    return Ended(victim, codes, computed(cells))


def _kill_one(cells: Sequence[Cell], sweeps: Sequence[int], chance: random.Random) -> str:
    """The name of the cell that was killed: at work after a random share of the cells and of a second."""
    from vlp_bench.runs.lock import owner

    share, delay = chance.uniform(0.0, 0.9), chance.uniform(0.0, 2.0)
    while sum(map(bool, computed(cells).values())) < share * len(cells):
        time.sleep(0.1)
    time.sleep(delay)
    while True:
        at_work = [(cell, number) for cell in cells if (number := owner(cell.folder)) is not None]
        if at_work:
            cell, number = chance.choice(at_work)
            assert int(number) not in (*sweeps, os.getpid())
            os.kill(int(number), signal.SIGKILL)
            return cell.name
        assert not all(computed(cells).values()), "the sweeps ended before a cell could be killed"
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    args, own = parser.parse_known_args()
    import torch

    from vlp_bench.sweeps.expand import cells_of

    torch.set_num_threads(1)  # threads do not survive a fork
    for module in SLOW:
        import_module(module)
    chance, failed = random.Random(args.seed), 0
    for number in range(args.kills):
        with tempfile.TemporaryDirectory() as folder:
            words = [*TWELVE, *own, f"paths.out={folder}"]
            cells, began = cells_of(words), time.monotonic()
            fresh = (lambda words=words, log=Path(folder) / "log": by_command(words, log)) if args.fresh else None
            ended = endure(cells, fresh or (lambda cells=cells: by_fork(cells)), chance)
        wrong = ended.wrong()
        failed += bool(wrong)
        said = "; ".join(wrong) or f"{len(cells)} cells stored once, exit codes {ended.codes}"
        print(f"kill {number + 1} ({ended.killed}, {time.monotonic() - began:.0f} s): {said}", flush=True)
    print(f"{args.kills - failed} of {args.kills} kills went well")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
