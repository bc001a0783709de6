"""Kill a sweep with all its processes at random moments, start it again each time: nothing finished is computed again.

    python benchmarks/endurance/kill_sweep.py [--kills 3] [--seed 0] [--out FOLDER] [words of a multirun]

The sweep is `python -m vlp_bench -m` with 36 cells of the embedded world (four pruners, three sparsities, three seeds,
a recipe of one epoch on 96 images) and two at a time. Every kill comes after a random share of the cells and a random
second, with SIGKILL for the whole process group. In the end every cell must be done and stored exactly once. Exit code
0 if so, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlp_bench.sweeps.sweep import Cell

MINI = (
    "+exp=xvlm_itr", "benchmark=mini", "trainer=cpu", "recipe.epochs=1", "data.num_workers=2", "data.source.train=96",
    "data.source.val=8", "data.source.test=8", "data.source.general=16", "data.source.regions=16",
    "data.calibration.num_batches=2",
    "data.calibration.batch_size=8", "task.k_test=4", "pruner=lamp,multiflow,omp,snip", "sparsity=0.63,0.75,0.9",
    "seed=0,1,2",
)  # fmt: skip
TWO = "hydra.launcher.n_parallel=2"


def computed(cells: Sequence[Cell]) -> dict[str, int]:
    """How many results each cell has stored, by name."""
    from vlp_bench.results.store import Store

    stored = {
        cell.name: [row.provenance["time"] for row in Store(cell.folder.parent).rows(cell.name)] for cell in cells
    }
    return {name: len(set(times)) for name, times in stored.items()}


def fresh(words: Sequence[str]) -> int:
    """Start the multirun as a process group of its own; its number."""
    child = os.fork()
    if not child:
        os.setsid()
        os.execv(sys.executable, [sys.executable, "-m", "vlp_bench", "-m", *words])
    return child


def endure(
    cells: Sequence[Cell], start: Callable[[], int], *, kills: int, seed: int, say: Callable[[str], object]
) -> list[str]:
    """Start, kill and start again until all is done; returns what went wrong.

    Args:
        start: begins the sweep in a process group of its own and returns its number.
    """
    chance, before, wrong = random.Random(seed), computed(cells), []
    for share in (*sorted(chance.uniform(0.1, 0.9) for _ in range(kills)), None):
        group = start()
        if share is not None and not _killed(group, cells, share, chance.random()):
            return [*wrong, "the sweep ended before it was killed"]
        if share is None:
            os.waitpid(group, 0)
        now = computed(cells)
        wrong += [f"{name} was computed again" for name, count in before.items() if count and now[name] != count]
        done = sum(map(bool, now.values()))
        say(f"{'ended' if share is None else 'killed'} with {done} of {len(cells)} cells stored")
        before = now
    wrong += [f"{cell.name} is {cell.state()}" for cell in cells if cell.state() != "done"]
    return wrong + [f"{name} was stored {count} times" for name, count in before.items() if count != 1]


def _killed(group: int, cells: Sequence[Cell], share: float, seconds: float) -> bool:
    """Wait for a share of the cells and some seconds, then kill the group; False if it has ended by itself."""
    while sum(map(bool, computed(cells).values())) < share * len(cells):
        if os.waitpid(group, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.2)
    time.sleep(seconds)
    if os.waitpid(group, os.WNOHANG) != (0, 0):
        return False
    os.killpg(group, signal.SIGKILL)
    os.waitpid(group, 0)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="")
    args, own = parser.parse_known_args()
    from vlp_bench.sweeps.expand import cells_of

    with tempfile.TemporaryDirectory() as scratch:
        words = [*MINI, *own, f"paths.out={args.out or scratch}"]
        cells, began = cells_of(words), time.monotonic()
        wrong = endure(cells, lambda: fresh([*words, TWO]), kills=args.kills, seed=args.seed, say=print)
    told = f"{len(cells)} cells, killed {args.kills} times: each computed once, in {time.monotonic() - began:.0f} s"
    print("\n".join(wrong) or told)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
