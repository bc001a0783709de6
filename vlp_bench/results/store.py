"""The results on disk: JSON lines, one file per run, appended whole or not at all; a query over all of them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import pandas as pd

from vlp_bench.results.row import Row

FILE = "rows.jsonl"
COLUMNS = (
    "metric", "value", "split", "status", "exp", "model", "task", "benchmark",
    "pruner", "sparsity", "seed", "run", "setting",
)  # fmt: skip
ORIGIN = ("commit", "data", "weights", "mask", "seconds", "time")


@dataclass
class Store:
    """All runs under one folder (`outputs/runs`). Unreadable lines are left out and described in `problems`."""

    root: Path
    problems: list[str] = field(default_factory=list)

    def file(self, folder: str) -> Path:
        return self.root / folder / FILE

    def append(self, folder: str, rows: Iterable[Row]) -> Path:
        """Append the rows of one run in a single write that has reached the disk when this returns.

        Raises:
            OSError: no space left or not writable; the file is then as long as before.
        """
        path = self.file(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(row.to_json() + "\n" for row in rows).encode()
        if not content:
            raise ValueError(f"no rows to store for {folder}")
        _append(path, content)
        return path

    def rows(self, folder: str = "*") -> Iterator[Row]:
        """Every readable row, oldest first within a run."""
        for path in sorted(self.root.glob(f"{folder}/{FILE}")):
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[Row]:
        *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
        if rest:
            self._report(f"{path}: the last line is torn (a write was interrupted) and ignored")
        for number, line in enumerate(lines, start=1):
            try:
                if line:
                    yield Row.from_json(line)
            except (ValueError, TypeError, RecursionError) as error:
                self._report(f"{path}, line {number} is ignored: {error}")

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def last(self, run: str, folder: str = "*") -> list[Row]:
        """The rows appended last for a run, if all of them are there; else none."""
        newest = appended_last([row for row in self.rows(folder) if row.run == run])
        return newest if newest and len(newest) == newest[0].rows else []

    def done(self, run: str, folder: str = "*") -> bool:
        """Whether a run is stored whole and none of its rows is an ERR."""
        rows = self.last(run, folder)
        return bool(rows) and all(row.status == "ok" for row in rows)

    def query(self, **equal: object) -> pd.DataFrame:
        """The newest value of every number as a frame, one row per number, filtered by `column=value`."""
        by_run: dict[str, list[Row]] = {}
        for row in self.rows():
            by_run.setdefault(row.run, []).append(row)
        newest = {run: appended_last(rows) for run, rows in by_run.items()}
        for run, rows in newest.items():
            if len(rows) < rows[0].rows:
                self._report(f"{self.root}: run {run} has {len(rows)} of its {rows[0].rows} rows; compute it again")
        records = [_flat(row) for rows in newest.values() for row in rows]
        frame = pd.DataFrame(records, columns=[*COLUMNS, *ORIGIN, "message"])
        frame = frame.drop_duplicates(subset=["run", "split", "metric"], keep="last")
        return matching(frame, **equal).reset_index(drop=True)


def appended_last(rows: Sequence[Row]) -> list[Row]:
    """Of a run's rows in the order of its file, those that were appended together last; clocks decide nothing.

    They share their time, which only tells one append from the one before. A row that stands there twice is one row.
    """
    last = [*takewhile(lambda row: row.provenance["time"] == rows[-1].provenance["time"], reversed(rows))]
    return list({(row.split, row.metric, row.value): row for row in last[::-1]}.values())


def matching(frame: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """The rows of a frame whose columns have these values; a list or set stands for any of its items."""
    keep = pd.Series(True, index=frame.index)
    for column, value in equal.items():
        keep &= frame[column].isin(list(value) if isinstance(value, list | tuple | set) else [value])
    return frame.loc[keep, :]


def _flat(row: Row) -> dict[str, object]:
    values = {name: getattr(row, name) for name in (*COLUMNS, "message")}
    return values | {name: row.provenance[name] for name in ORIGIN}


def _append(path: Path, content: bytes) -> None:
    """One write, then fsync. After a torn line the new rows start on a line of their own."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        if before and os.pread(descriptor, 1, before - 1) != b"\n":
            content = b"\n" + content
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(28, "No space left on device", str(path))
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, before)
            error.filename = error.filename or str(path)  # a failed write does not say where
            raise
    finally:
        os.close(descriptor)
