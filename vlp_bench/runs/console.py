"""The two places a command writes to. The library writes to neither."""

from collections.abc import Iterable

from rich.console import Console

console = Console(highlight=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def warn(lines: Iterable[str]) -> None:
    """What was left out or could not be read, a line each."""
    for line in lines:
        stderr.print(line, style="yellow", markup=False)
