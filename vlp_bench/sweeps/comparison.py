"""The cells of a comparison: specifications, masks from one calibration pass, and the processes that run them."""

import os
import queue
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vlp_bench.lifetime import begin_as
from vlp_bench.runs.device import root_device
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.progress import Pruning
from vlp_bench.runs.prune_once import by_pruner, prune_once
from vlp_bench.runs.spawn import GRACE
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.suitability import inspect
from vlp_bench.runs.terminal.console import console
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.trial_construction import construct_all
from vlp_bench.spelling import count_of
from vlp_bench.sweeps import comparison_worker as worker


def compute(cells: Sequence[Specification], workers: int, *, fresh_statistics: bool = False) -> dict[str, str]:
    """Make the masks, then run the cells in parallel; returns the reasons of those that failed, by name.

    Args:
        fresh_statistics: earlier passes' statistics are not used and none are kept: a mask's seconds are its own.
    """
    for group in by_pruner(cells).values():
        construct_all(group[0], [cell.config["sparsity"] for cell in group])
    prune(cells, fresh_statistics=fresh_statistics)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes to come: one thread each
    context = get_context("spawn")
    news = context.Queue()
    with _progress() as progress:
        board = Board(progress, len(cells))
        first = (worker.__name__, worker.begin.__name__, news)  # by name: the process is bound before it imports them
        pool = ProcessPoolExecutor(min(workers, len(cells)), context, begin_as, first)
        try:
            futures = {pool.submit(worker.work, cell): cell for cell in cells}
            failures = _follow(futures, news, board)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            _end(active_children())
            if isinstance(error, BrokenProcessPool):
                raise UserError("a process was killed, perhaps for lack of memory; go on with workers=1") from error
            raise
        pool.shutdown()
    return failures


def _follow(futures: Mapping["Future[str | None]", Specification], news: Any, board: "Board") -> dict[str, str]:
    failures: dict[str, str] = {}
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        board.hear(news)
        for future in done:
            name, reason = futures[future].name, future.result()
            board.finish(name, reason)
            if reason is not None:
                failures[name] = reason
    return failures


def _end(children: Sequence[BaseProcess]) -> None:
    """Terminate them, which lets each finish a step and save it; kill what does not listen."""
    for child in children:
        child.terminate()
    until = time.monotonic() + GRACE
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
        child.kill()


def prune(cells: Sequence[Specification], *, fresh_statistics: bool = False) -> None:
    """Write the masks that are missing (all of them under force=true).

    Args:
        fresh_statistics: see `compute`.
    """
    objects, config = ObjectCache(), cells[0].config
    data, device, began = objects.data(config, config["allow"]), root_device(config), time.monotonic()
    model = objects.model(config, config["allow"])
    inspect(model, data, config)
    with Pruning(console, what="masks") as watch:
        masks = prune_once(
            cells, model, data, device,
            again=config["force"], fresh_statistics=fresh_statistics, watch=watch,
        )  # fmt: skip
        made = 0
        for pruned in masks:
            made += pruned.fresh
            watch.what = f"masks, {made} made"
    console.print(f"{count_of(made, 'mask')} made with one calibration pass in {time.monotonic() - began:.1f} s")


# What is seen meanwhile


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, refresh_per_second=2, speed_estimate_period=600)


@dataclass
class Board:
    """One bar for all cells and one for each cell at work."""

    progress: Progress
    total: int

    def __post_init__(self) -> None:
        self.all = self.progress.add_task("all runs", total=self.total)
        self.bars: dict[str, TaskID] = {}
        self.done = 0

    def hear(self, news: Any) -> None:
        """Take in what the workers have reported: (name, steps done, steps to do)."""
        while True:
            try:
                name, step, steps = news.get_nowait()
            except queue.Empty:
                break
            if name not in self.bars:
                self.bars[name] = self.progress.add_task(f"  {name}", total=steps)
            self.progress.update(self.bars[name], completed=step, total=steps)

    def finish(self, name: str, reason: str | None) -> None:
        self.done += 1
        self.progress.update(self.all, completed=self.done)
        if name in self.bars:
            self.progress.remove_task(self.bars.pop(name))
        self.progress.console.print(f"{'done' if reason is None else '[red]failed[/]'}  {name}", soft_wrap=True)
