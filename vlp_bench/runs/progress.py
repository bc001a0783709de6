"""How far pruning or measuring is: on the screen, and in a line in a run's folder for other processes to read."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import rich.progress as bars
from rich.console import Console

from vlp_bench import processes
from vlp_bench.runs.lock import PROGRESS

EVERY = 1.0  # seconds between two notes in the folder
LINE_EVERY = 60.0  # seconds between two lines where there is no terminal


class Pruning:
    """While pruning lasts: a bar on a terminal, else a line a minute; and what `sweep` and `status` show of the run.

    Called on calibration batches it hands them on and counts. How often a pruner asks for them is its own affair (each
    step of a schedule and each block does), so that a pass has a number and no last one.

    Args:
        console: where to; a quiet one shows nothing.
        folder: of the run, which must be there; None leaves no note.
        what: is being done.
    """

    def __init__(self, console: Console, folder: Path | None = None, what: str = "pruning") -> None:
        self.console, self.what = console, what
        self.file = folder / PROGRESS if folder is not None and processes.is_main() else None
        self.passes, self.batch, self.batches = 0, 0, None
        self.began = self.noted = time.monotonic()
        columns = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.BarColumn())
        self.bar = bars.Progress(*columns, bars.TimeElapsedColumn(), console=console, transient=True)
        self.task = self.bar.add_task(what, total=None)
        self.over = Event()

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        if self.console.is_terminal:
            self.bar.start()
        elif not self.console.quiet:
            self.lines = Thread(target=self._say_now_and_then, daemon=True)
            self.lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.console.is_terminal:  # else it would leave an empty line
            self.bar.stop()
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def __call__(self, batches: Iterable[Any], limit: int | None = None) -> "Watched":
        """The same batches, counted; `limit` is how many of them are used, where not all are."""
        return Watched(batches, limit, self)

    def __str__(self) -> str:
        of = "" if self.batches is None else f" of {self.batches}"
        return f"{self.what}: calibration pass {self.passes}, batch {self.batch}{of}" if self.passes else self.what

    def see(self, batch: int, batches: int | None) -> None:
        """Take note of batch `batch` of `batches`, from 1; the first begins a pass."""
        self.passes += batch == 1
        self.batch, self.batches = batch, batches
        self.bar.update(self.task, description=str(self), completed=batch, total=batches)
        if self.file is not None and time.monotonic() - self.noted >= EVERY:
            self.noted = time.monotonic()
            note(self.file, str(self))

    def _say_now_and_then(self) -> None:
        while not self.over.wait(LINE_EVERY):
            self.console.print(f"{self}, {time.monotonic() - self.began:.0f} s", soft_wrap=True)


class Evaluating(Pruning):
    """The same while a model is measured; `what` is the model."""

    def __init__(self, console: Console, what: str) -> None:
        super().__init__(console, what=what)
        self.model = what

    def of(self, batches: Sequence[Any], what: str) -> "Watched":
        """Batches of `what` (images, questions), counted."""
        self.what = f"{self.model}: {what}"
        return self(batches)

    def __str__(self) -> str:
        return f"{self.what}, batch {self.batch} of {self.batches}" if self.batch else self.what


@dataclass(frozen=True)
class Watched:
    """Calibration batches that are counted while they are read."""

    batches: Iterable[Any]
    limit: int | None
    progress: Pruning

    def __len__(self) -> int:
        return len(self.batches)  # pyright: ignore[reportArgumentType]  # TypeError where they have no length

    def __iter__(self) -> Iterator[Any]:
        count = min((n for n in (length_hint(self, 0), self.limit) if n), default=None)
        for number, batch in enumerate(self.batches, 1):
            self.progress.see(number, count)
            yield batch


def note(file: Path, what: str) -> None:
    """Say in a run's folder how far it is; a full disk stops nothing."""
    with suppress(OSError):
        file.write_text(what, encoding="utf-8")
