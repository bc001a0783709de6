"""A metric against sparsity, one line per pruner, error bars over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vlp_bench.results.palette import looks
from vlp_bench.results.store import matching
from vlp_bench.results.tables import LABELS


def as_is(text: str) -> str:
    """A name in a figure: its dollar signs are no formula."""
    return text.replace("$", r"\$")


def plot_sparsity(
    table: pd.DataFrame, pruners: Sequence[str], metrics: Sequence[str], title: str, files: Sequence[Path]
) -> None:
    """Draw one panel per metric of `spread`'s table and save it to every file; dense is a level line with its band."""
    panels = {LABELS.get(metric, metric): matching(table, metric=metric) for metric in metrics}
    plot_panels(panels, pruners, title, files)


def plot_panels(
    panels: Mapping[str, pd.DataFrame], pruners: Sequence[str], title: str, files: Sequence[Path], columns: int = 3
) -> None:
    """The same for tables of one metric each, by what their vertical axis says; at most `columns` side by side."""
    down = -(-len(panels) // columns)
    across = -(-len(panels) // down)  # four panels are two by two, not three and one
    with mpl.rc_context({"svg.hashsalt": "vlp_bench", "font.size": 9}):
        figure = Figure(figsize=(5 * across, 4 * down), layout="constrained")
        spots = figure.subplots(down, across, squeeze=False).flat
        named: dict[str, Any] = {}
        for (label, table), axes in zip(panels.items(), spots, strict=False):
            named |= _panel(axes, table, pruners, label)
        for axes in spots:  # what is left of the last line
            axes.set_axis_off()
        figure.suptitle(as_is(title), fontsize=9)
        if order := [name for name in pruners if name in named]:  # every run may have failed
            lines = [named[name] for name in order]
            figure.legend(lines, list(map(as_is, order)), loc="outside lower center", ncols=4 * across, fontsize=8)
        _save(figure, files)


def _panel(axes: Any, table: pd.DataFrame, pruners: Sequence[str], label: str) -> dict[str, Any]:
    """Draw one panel; returns what stands for each pruner in it."""
    named: dict[str, Any] = {}
    for pruner, look in looks(pruners).items():
        line = matching(table, pruner=pruner).sort_values("sparsity")
        if line.empty:
            continue
        spread = line["std"].where(line["std"] > 0)  # one seed, or the same value for all: no bar is drawn
        if pruner == "dense":
            mean, std = float(line["mean"].iloc[0]), float(spread.iloc[0])
            named[pruner] = axes.axhline(mean, color=look.colour, linestyle="--", linewidth=1)
            if std > 0:
                axes.axhspan(mean - std, mean + std, color=look.colour, alpha=0.1, linewidth=0)
        else:
            named[pruner] = axes.errorbar(
                100 * line["sparsity"],
                line["mean"],
                spread,
                marker=look.marker,
                markersize=5,
                capsize=3,
                color=look.colour,
            )
    axes.set_xticks(sorted({100 * level for level in table["sparsity"] if level > 0}))
    axes.set_xlabel("sparsity (%)")
    axes.set_ylabel(as_is(label))
    axes.grid(alpha=0.3)
    return named


def plot_grids(
    grids: Mapping[str, pd.DataFrame], title: str, files: Sequence[Path], label: str = "", columns: int = 3
) -> None:
    """Heat maps, at most `columns` side by side, each cell with its number; light is high, no value stays white.

    Args:
        grids: what stands above each -> its values, rows down and columns across; one scale a grid.
        label: what the rows (down) and columns (across) are, as "row axis / column axis".
    """
    down, _, across = label.partition(" / ")
    below = -(-len(grids) // columns)
    beside = -(-len(grids) // below)
    rows, wide = max(len(g) for g in grids.values()), max(g.shape[1] for g in grids.values())
    size = (beside * (0.75 * wide + 1.6), below * (0.42 * rows + 1.7))
    with mpl.rc_context({"svg.hashsalt": "vlp_bench", "font.size": 8}):
        figure = Figure(figsize=size, layout="constrained")
        spots = figure.subplots(below, beside, squeeze=False).flat
        for (name, grid), axes in zip(grids.items(), spots, strict=False):
            _heat(axes, grid)
            axes.set_title(as_is(name), fontsize=9)
            axes.set_xlabel(across)
            axes.set_ylabel(down)
        for axes in spots:  # what is left of the last line
            axes.set_axis_off()
        figure.suptitle(as_is(title), fontsize=9)
        _save(figure, files)


def plot_pairs(tables: Mapping[str, pd.DataFrame], title: str, files: Sequence[Path]) -> None:
    """One panel a table: a line for each row, from its first column's value (open) to its others' (filled).

    Args:
        tables: what stands above each, and after a line break below it -> rows down, two columns or more; what is
            missing is not drawn.
    """
    columns = list(dict.fromkeys(str(name) for table in tables.values() for name in table))
    rows = max(map(len, tables.values()))
    with mpl.rc_context({"svg.hashsalt": "vlp_bench", "font.size": 8}):
        figure = Figure(figsize=(3.6 * len(tables), 0.25 * rows + 1.5), layout="constrained")
        for (name, table), axes in zip(tables.items(), figure.subplots(1, len(tables), squeeze=False)[0], strict=True):
            places = range(len(table))[::-1]  # the first row on top
            axes.hlines(places, table.min(axis=1), table.max(axis=1), color="0.75", zorder=1)
            for number, column in enumerate(columns):
                if column in table:
                    face = f"C{number - 1}" if number else "white"
                    axes.scatter(table[column], places, facecolor=face, edgecolor="0.2", zorder=2, label=column)
            axes.set_yticks(places, [as_is(str(row)) for row in table.index])
            above, _, below = name.partition("\n")
            axes.set_title(as_is(above), fontsize=9)
            axes.set_xlabel(as_is(below))
            axes.grid(axis="x", linewidth=0.4)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(columns), frameon=False)
        figure.suptitle(as_is(title), fontsize=9)
        _save(figure, files)


def plot_against(tables: Mapping[str, pd.DataFrame], title: str, files: Sequence[Path], across: str) -> None:
    """One panel a table: a point a row, `x` (in %, on a scale of powers) against `y`, in its method's colour.

    Args:
        tables: what stands above each, and after a line break beside it -> rows with x, y, method and filled.
        across: what x is.
    """
    methods = looks(dict.fromkeys(name for table in tables.values() for name in table["method"]))
    with mpl.rc_context({"svg.hashsalt": "vlp_bench", "font.size": 8}):
        figure = Figure(figsize=(4 * len(tables) + 1, 3.6), layout="constrained")
        for (name, table), axes in zip(tables.items(), figure.subplots(1, len(tables), squeeze=False)[0], strict=True):
            for x, y, method, filled in table[["x", "y", "method", "filled"]].itertuples(index=False, name=None):
                own = methods[str(method)]
                face = own.colour if filled else "white"
                axes.scatter(x, y, s=36, marker=own.marker, facecolor=face, edgecolor=own.colour)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            above, _, beside = name.partition("\n")
            axes.set_title(as_is(above), fontsize=9)
            axes.set_ylabel(as_is(beside))
            axes.set_xlabel(as_is(across))
            axes.grid(alpha=0.3)
        points = [Line2D([], [], linestyle="", marker=own.marker, color=own.colour) for own in methods.values()]
        figure.legend(points, list(map(as_is, methods)), loc="outside right center", frameon=False)
        figure.suptitle(as_is(title), fontsize=9)
        _save(figure, files)


def _save(figure: Figure, files: Sequence[Path]) -> None:
    """The same bytes for the same figure: SVG without its date."""
    for file in files:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)


def _heat(axes: Any, grid: pd.DataFrame) -> None:
    """One heat map in viridis, which prints in grey and tells its ends apart for the colour-blind."""
    values = grid.to_numpy(dtype=float)
    axes.imshow(values, cmap="viridis", aspect="auto")
    low, high = np.nanmin(values), np.nanmax(values)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            bright = high > low and (value - low) / (high - low) > 0.6
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color="black" if bright else "white", fontsize=7)
    axes.set_xticks(range(grid.shape[1]), list(map(as_is, map(str, grid.columns))), rotation=40, ha="right")
    axes.set_yticks(range(len(grid)), list(map(as_is, map(str, grid.index))))
