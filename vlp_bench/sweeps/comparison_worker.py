"""One of the processes of a comparison: imports, weights and data are shared by all the cells it runs."""

import os
import signal
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from vlp_bench.lifetime import interruptible
from vlp_bench.runs.lock import InUse, owner
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.run import Helpers, run
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.terminal.errors import INTERRUPTED, explain

_objects = ObjectCache()
WAIT = 1.0  # seconds between two looks at a folder that is in use
_news: Any = None  # the queue to the parent; set when the process begins


def begin(news: Any) -> None:
    """Prepare the process: one thread, and Ctrl-C left to the parent."""
    global _news
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def work(specification: Specification) -> str | None:
    """Run one cell; returns the reason if it failed in a way that leaves the others alone.

    A cell that another process is at work on is waited for. One that is told to end takes its process along: the pool
    that would hand it the next cell may be gone.
    """
    helpers = Helpers(_objects, Console(quiet=True), [Reporter(specification.name)], masks_are_new=True)
    try:
        with interruptible():
            while not _run(specification, helpers):
                time.sleep(WAIT)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        return reason
    return None


def _run(specification: Specification, helpers: Helpers) -> bool:
    """Whether its folder was free."""
    try:
        run(specification, helpers)
    except InUse:
        if owner(specification.folder) == str(os.getpid()):
            raise
        return False
    return True


class Reporter(Callback):
    """Tells the parent how far the fine-tuning is, twice a second at most."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if time.monotonic() - self.told > 0.5:
            self.told = time.monotonic()
            _news.put((self.name, trainer.global_step, int(trainer.estimated_stepping_batches)))
