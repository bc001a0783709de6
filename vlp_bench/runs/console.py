"""The two places a command writes to. The library writes to neither."""

from rich.console import Console

console = Console(highlight=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)
