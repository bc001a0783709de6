"""Figures as SVG for a page: text stays text, and takes the page's colour in light and dark."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from vlp_bench.results.palette import COLOURS, looks
from vlp_bench.results.plot import as_is
from vlp_bench.results.report.material import Mask, Study, block_name
from vlp_bench.results.store import matching
from vlp_bench.results.tables import LABELS

INK = "#010203"  # stands for the colour of the page's text
PHONE = 4.6  # inches: what a phone shows without a scroll bar
QUANTILES, MEDIAN = COLOURS["omp"], COLOURS["ecoflap"]  # of a distribution
LETTER = 0.085  # inches, a wide one at the size below
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.facecolor": "none", "figure.facecolor": "none",
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9,
}  # fmt: skip


@contextmanager
def _canvas(name: str, size: tuple[float, float]) -> Iterator[tuple[Figure, list[str]]]:
    """A figure and the list its SVG is put into at the end; size in inches."""
    out: list[str] = []
    settings: Any = STYLE | {"svg.hashsalt": name}
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, out
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    out.append(_clean(buffer.getvalue(), name))


def _clean(svg: str, name: str) -> str:
    """The svg element alone: no prologue, no metadata, as wide as the page up to its own size, the page's ink."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    width = re.search(r'<svg [^>]*width="([\d.]+)pt"', svg)
    assert width is not None, "matplotlib gives the width in points"
    for _ in ("width", "height"):
        svg = re.sub(r'(<svg [^>]*?)\s+(?:width|height)="[^"]*"', r"\1", svg, count=1)
    sizes = f"--least: {float(width[1]):.0f}px; max-width: {1.5 * float(width[1]):.0f}px"
    svg = svg.replace("<svg ", f'<svg role="img" style="{sizes}" ', 1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    return svg.replace(INK, "currentColor").strip()


def curves(name: str, table: pd.DataFrame, pruners: Sequence[str], metrics: Sequence[str]) -> str:
    """Metric against sparsity with t-intervals, a figure a metric: `statistics.summary` of one study."""
    return "".join(_curve(f"{name}{n}", matching(table, metric=m), pruners, m) for n, m in enumerate(metrics))


def _curve(name: str, table: pd.DataFrame, pruners: Sequence[str], metric: str) -> str:
    with _canvas(name, (PHONE, 3.6)) as (figure, out):
        axes = figure.subplots()
        _curve_panel(axes, table, pruners)
        axes.set_ylabel(as_is(LABELS.get(metric, metric)))
        _legend_below(figure)
    return out[0]


def _legend_below(figure: Figure) -> None:
    """One legend for all panels, in as many columns as the width has room for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        entry = LETTER * max(map(len, labels)) + 0.5  # inches, its mark included
        columns = max(1, min(5, len(labels), int(figure.get_figwidth() / entry)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _curve_panel(axes: Any, table: pd.DataFrame, pruners: Sequence[str]) -> None:
    for pruner, look in looks(pruners, dense=INK).items():
        line = matching(table, pruner=pruner).dropna(subset="mean").sort_values("sparsity")
        if line.empty:
            continue
        if pruner == "dense":
            first = line.iloc[0]
            axes.axhline(first["mean"], color=look.colour, linestyle="--", linewidth=1, label="dense")
            if pd.notna(first["low"]):
                axes.axhspan(first["low"], first["high"], color=look.colour, alpha=0.12, linewidth=0)
        else:
            spread = np.array([line["mean"] - line["low"], line["high"] - line["mean"]])  # NaN: none is drawn
            axes.errorbar(100 * line["sparsity"], line["mean"], spread, color=look.colour, label=as_is(pruner),
                          capsize=3, marker=look.marker, markersize=4, linewidth=1.2)  # fmt: skip
    axes.set_xlabel("sparsity (%)")
    axes.set_xticks(sorted({100 * level for level in table["sparsity"] if level > 0}))
    axes.grid(alpha=0.25)


def heat_map(name: str, masks: Sequence[Mask]) -> str:
    """Share of the weights removed by block (rows, with their modality) and pruner (columns); masks of one sparsity."""
    places = [(row.modality, row.block) for row in masks[0].table if row.block]
    removed = [{(row.modality, row.block): 100 * row.sparsity for row in mask.table} for mask in masks]
    values = np.array([[column.get(place, np.nan) for column in removed] for place in places])
    rows = [block_name(*place) for place in places]
    limits = 10 * np.floor(np.nanmin(values) / 10), 10 * np.floor(np.nanmax(values) / 10 + 1)
    return _matrix(name, values, rows, [mask.name for mask in masks], "removed (%)", limits)


def overlap(name: str, masks: Sequence[Mask]) -> str:
    """Intersection over union of the kept weights of every two masks of one sparsity."""
    names = [mask.name for mask in masks]
    values = np.array([[100 * _iou(a, b) for b in masks] for a in masks])
    return _matrix(name, values, names, names, "shared (%)", (0, 100))


def _iou(first: Mask, second: Mask) -> float:
    if set(first.bits) != set(second.bits):
        return float("nan")
    both = sum(int(np.bitwise_count(bits & second.bits[name]).sum()) for name, bits in first.bits.items())
    either = sum(int(np.bitwise_count(bits | second.bits[name]).sum()) for name, bits in first.bits.items())
    return both / either if either else 1.0


def _matrix(
    name: str, values: np.ndarray, rows: list[str], columns: list[str], label: str, limits: tuple[float, float]
) -> str:
    """Numbers on colours, which go from the first limit to the second."""
    low, high = limits
    height, width = 1.2 + 0.24 * len(rows), 2.8 + 0.55 * len(columns)
    with _canvas(name, (width, height)) as (figure, out):
        axes = figure.subplots()
        image = axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        axes.set_yticks(range(len(rows)), [as_is(row) for row in rows])
        axes.set_xticks(range(len(columns)), [as_is(column) for column in columns], rotation=40, ha="right")
        for i, j in np.ndindex(values.shape):
            if np.isfinite(values[i, j]):
                ink = "white" if values[i, j] < low + 0.6 * (high - low) else "black"
                axes.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center", color=ink, fontsize=7)
        figure.colorbar(image, ax=axes, label=label)
    return out[0]


def distribution(name: str, quantiles: Mapping[str, np.ndarray], thresholds: Mapping[str, float], label: str) -> str:
    """A score by block before pruning: 5, 25, 50, 75 and 95 % quantiles; a line for every threshold (log scale)."""
    rows = list(quantiles)
    with _canvas(name, (PHONE, 1.2 + 0.24 * len(rows))) as (figure, out):
        axes = figure.subplots()
        for y, block in enumerate(rows):
            low, q1, median, q3, high = quantiles[block]
            axes.plot([low, high], [y, y], color=QUANTILES, linewidth=1)
            axes.plot([q1, q3], [y, y], color=QUANTILES, linewidth=5, solid_capstyle="butt")
            axes.plot([median], [y], marker="|", color=MEDIAN, markersize=9)
        for (mask, value), look in zip(thresholds.items(), looks(thresholds).values(), strict=True):
            axes.axvline(value, color=look.colour, linewidth=1, linestyle="--", label=as_is(mask))
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # its numbers lie on each other
        axes.set_yticks(range(len(rows)), [as_is(row) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(as_is(label))
        if thresholds:
            _legend_below(figure)
    return out[0]


def cost(name: str, study: Study, table: pd.DataFrame, metric: str, quantity: str, label: str) -> str:
    """The metric against what a mask cost (`quantity`, of the split mask); sizes by sparsity."""
    stored = matching(study.frame, split="mask", metric=quantity, status="ok")
    spent = stored.groupby(["pruner", "sparsity"]).agg(spent=("value", "median")).reset_index()
    points = matching(table, metric=metric).merge(spent).dropna(subset="mean")
    points = points.loc[points["spent"] > 0, :]
    with _canvas(name, (PHONE, 3.8)) as (figure, out):
        axes = figure.subplots()
        for pruner, look in looks(study.pruners).items():
            own = matching(points, pruner=pruner)
            if pruner != "dense" and not own.empty:
                axes.scatter(own["spent"], own["mean"], s=20 + 60 * (1 - own["sparsity"]), color=look.colour,
                             label=as_is(pruner), marker=look.marker)  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel(as_is(LABELS.get(metric, metric)))
        axes.grid(alpha=0.25)
        _legend_below(figure)
    return out[0]


def training(name: str, study: Study, sparsity: float, seed: int) -> str | None:
    """Training loss and metrics of validation by step, a figure each, a line a pruner; None without two points."""
    runs = study.frame.loc[study.frame["seed"].eq(seed) & study.frame["sparsity"].isin([0.0, sparsity]), :]
    frames = {str(p): study.curves(str(r)) for p, r in dict(zip(runs["pruner"], runs["run"])).items()}
    columns = ("train/loss", *(f"val/{m}" for m in study.metrics))
    drawn = (_curves_of(f"{name}{n}", frames, study.pruners, column) for n, column in enumerate(columns))
    return "".join(filter(None, drawn)) or None


def _curves_of(name: str, frames: Mapping[str, pd.DataFrame], pruners: Sequence[str], column: str) -> str | None:
    """One column by step; None where nobody has logged it twice: a dot is no curve."""
    lines = {p: f.dropna(subset=column) for p, f in frames.items() if column in f}
    lines = {pruner: line for pruner, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    with _canvas(name, (PHONE, 3.4)) as (figure, out):
        axes = figure.subplots()
        for pruner, look in looks(pruners, dense=INK).items():
            if (line := lines.get(pruner)) is not None:
                axes.plot(line["step"], line[column], color=look.colour, label=as_is(pruner), marker=".", linewidth=1)
        axes.set_title(as_is(column))
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        _legend_below(figure)
    return out[0]
