"""The two places a command writes to, and how long texts and tables reach them. The library writes to neither."""

import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table


class Terminal(Console):
    """What names and messages hold of control characters is shown and does nothing: no file moves the cursor."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            harmless = segment.control or segment.text.isprintable()
            yield (
                segment if harmless else Segment(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", segment.text), segment.style)
            )


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
console = Terminal(highlight=False)
stderr = Terminal(stderr=True, highlight=False, soft_wrap=True)

_GLUE = "\N{NO-BREAK SPACE}"
_ANY_WIDTH = 10_000
_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def warn(lines: Iterable[str]) -> None:
    """What was left out or could not be read, a line each."""
    for line in lines:
        stderr.print(line, style="yellow", markup=False)


def print_help(text: str | None) -> None:
    """Print a help text: lines that are indented (commands, lists) as they are, the others as wide as the terminal.

    Nothing is broken but between two words, and no command in backticks at all.
    """
    for block in re.split(r"\n{2,}", (text or "").strip("\n")):
        for line in _wrapped(block.splitlines(), console.width):
            console.print(line, markup=False, soft_wrap=True)
        console.print()


def columns(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Lines of names, and beside each what it is, folded between words; names are never broken."""
    rows = list(rows)
    margin = max(len(name) for name, _ in rows) + 4
    folds = ((name, textwrap.wrap(text, max(width - margin, 30), **_WHOLE) or [""]) for name, text in rows)
    return [
        f"  {name if number == 0 else '':<{margin - 2}}{line}".rstrip()
        for name, fold in folds
        for number, line in enumerate(fold)
    ]


def _wrapped(lines: list[str], width: int) -> list[str]:
    if any(line.startswith((" ", "usage:")) for line in lines):
        return lines  # commands, or a list
    prose = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", _GLUE), " ".join(lines))
    folded = textwrap.wrap(prose, width, **_WHOLE)
    return [line.replace(_GLUE, " ") for line in folded]


def is_wide(table: Table) -> bool:
    """Whether a table is wider than the terminal, its columns with no_wrap=True whole; never where there is none."""
    _keep_whole(table)
    return (
        _limited()
        and console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).minimum > console.width
    )


def _limited() -> bool:
    """Whether there is a terminal, or somebody said how wide it is (COLUMNS)."""
    return console.is_terminal or "COLUMNS" in os.environ


def _keep_whole(table: Table) -> None:
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(console.measure(cell).maximum for cell in (column.header, *column.cells))


def print_table(table: Table) -> None:
    """Print a table whose columns with no_wrap=True are as wide as their cells, however narrow the terminal is.

    Where there is no terminal, and nobody said how wide it is (COLUMNS), nothing is folded: a row is a line.
    """
    _keep_whole(table)
    asked = console.measure(table, options=console.options.update(max_width=_ANY_WIDTH))
    needed = asked.minimum if _limited() else asked.maximum
    table.width = needed if needed > console.width else None
    console.print(table, soft_wrap=True)
