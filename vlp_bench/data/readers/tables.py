"""Tables of records: a first line that names the columns, as spreadsheets and pandas write them (.csv, .tsv)."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlp_bench.spelling import count_of

TABLES = (".csv", ".tsv")
"""What their files end with."""
_SEPARATORS = ",\t;|"


def columns(path: Path, line: str) -> tuple[str, list[str]]:
    """What separates the columns of a table's first line (a tab in a .tsv), and their names."""
    separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=line.count)
    return separator, [name.strip() for name in next(csv.reader([line.strip()], delimiter=separator), [])]


def rows(path: Path, text: str, needed: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of its first line, the cells by their column) of every row of a table with this text.

    An empty cell is no key, a row of them no record. A name that several columns have (`answer,answer`) is a list.

    Raises:
        ValueError: a column that is `needed` has no name, a row has more or fewer cells than the first, or a quote is
            not closed.
    """
    separator, names = columns(path, text.partition("\n")[0])
    if not {*needed} <= {*names}:
        there = ", ".join(names)[:80] or "none"
        raise ValueError(f"{path}, line 1 must name the columns {', '.join(needed)}; it names {there}")
    several = {name for name, count in Counter(names).items() if count > 1}
    read = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    number = 1
    try:
        for cells in read:
            if number > 1 and any(map(str.strip, cells)):
                yield number, _record(path, number, names, cells, several, separator)
            number = read.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {number}: {error}; put a text with quotes in quotes, each of its own written twice"
        ) from None


def _record(
    path: Path, number: int, names: Sequence[str], cells: Sequence[str], several: set[str], separator: str
) -> dict[str, Any]:
    if len(cells) != len(names):
        what = f"{count_of(len(cells), 'column')} where the first line has {len(names)}"
        raise ValueError(f"{path}, line {number} has {what}; put a text that holds {separator!r} in quotes")
    found: dict[str, Any] = {}
    for name, cell in zip(names, map(str.strip, cells), strict=True):
        if name and cell:
            found[name] = [*found.get(name, []), cell] if name in several else cell
    return found
