"""What a comparison shows: a table a metric with mean ± std over seeds, and a picture, on the terminal and as files."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from vlp_bench.results.plot import plot_sparsity
from vlp_bench.results.row import REHEARSAL
from vlp_bench.results.tables import LABELS, comparison, markdown, spread, text_table


def title_of(what: str, seeds: Sequence[int]) -> str:
    """'xvlm_itr, benchmark=mini: test, mean ± std over seeds 0, 1, by sparsity'."""
    over = f"mean ± std over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    return f"{what}: test, {over}, by sparsity"


def show(
    console: Console,
    frame: pd.DataFrame,
    pruners: Sequence[str],
    sparsities: Sequence[float],
    metrics: Sequence[str],
    title: str,
    folder: Path,
    *,
    rehearsed: bool = False,
) -> None:
    """Print the tables; write them and the picture to `folder`: table.md, plot.png, plot.svg.

    Args:
        frame: the rows of `Store.query()` that are compared.
        pruners, sparsities: rows and columns, in this order.
        rehearsed: that the numbers mean nothing is said before them.
    """
    table, text = spread(frame, metrics), [title]
    if rehearsed:
        console.print(f"[yellow]{REHEARSAL}[/]", soft_wrap=True)
        text, title = [f"**{REHEARSAL}**", title], f"{title} (a rehearsal)"
    console.print(f"[bold]{title}[/]", soft_wrap=True)
    for metric in metrics:
        rows = comparison(table, pruners, sparsities, metric)
        console.print(LABELS.get(metric, metric), text_table(rows))
        text += [LABELS.get(metric, metric), markdown(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text("\n\n".join(text), encoding="utf-8")
    plot_sparsity(table, pruners, metrics, title, [folder / "plot.png", folder / "plot.svg"])
    console.print(f"table.md, plot.png and plot.svg in {folder}", soft_wrap=True)
