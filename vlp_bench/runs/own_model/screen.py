"""What a user is shown of their model before and after it is pruned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlp_bench.models.foreign.structure import Structure, grouped
from vlp_bench.pruning.solution import Solution
from vlp_bench.results.pruner_names import named
from vlp_bench.results.row import Row
from vlp_bench.runs.terminal.console import print_table
from vlp_bench.spelling import count_of

if TYPE_CHECKING:  # Lightning comes with it, which pruning does without
    from vlp_bench.data.datasets.evaluated import Place


def show(console: Console, name: str, structure: Structure) -> None:
    """What of a model would be pruned, and what stays dense and why."""
    going, staying = sum(w.size for w in structure.prunable), sum(w.size for w in structure.dense)
    everything, layers = going + staying + structure.vectors, sum(w.matrices for w in structure.prunable)
    console.print(
        f"[bold]{escape(name)}[/]: {count_of(everything, 'parameter')}, {going:,} of them in "
        f"{count_of(layers, 'layer')} that {'is' if layers == 1 else 'are'} pruned",
        soft_wrap=True,
    )
    print_table(_pruned(structure))
    if structure.dense:
        print_table(_dense(structure))


def hint(console: Console, line: str) -> None:
    """What would be faster, if anything would."""
    if line:
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)


def _pruned(structure: Structure) -> Table:
    table = Table("modality", box=None, pad_edge=False)
    table.add_column("blocks", no_wrap=True)
    table.add_column("layers a block", justify="right", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    for modality in structure.modalities:
        own = [w for w in structure.prunable if w.modality == modality]
        for pattern, weights in grouped(own, [w.block for w in own]).items():
            counts = sorted({sum(o.matrices for o in weights if o.block == w.block) for w in weights})
            layers = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
            table.add_row(modality, escape(pattern), layers, f"{sum(w.size for w in weights):,}")
    return table


def _dense(structure: Structure) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("stays dense", "which"):
        table.add_column(name, no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    for reason in dict.fromkeys(w.reason for w in structure.dense):
        own = [w for w in structure.dense if w.reason == reason]
        for pattern, weights in grouped(own, [w.name for w in own]).items():
            table.add_row(escape(reason), escape(pattern), f"{sum(w.size for w in weights):,}")
    table.add_row("no matrices", "norms, biases and the like", f"{structure.vectors:,}")
    return table


def left(console: Console, reasons: Sequence[tuple[str, str]]) -> None:
    """What the calibration data do not reach."""
    for reason in dict.fromkeys(reason for _, reason in reasons):
        names = [name for name, own in reasons if own == reason]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        console.print(f"[yellow]stays dense too: {escape(reason)}:[/] {escape(shown)}", soft_wrap=True)


def evaluated_on(console: Console, task: str, place: Place, count: int) -> None:
    """What is measured, on what."""
    what = f"{count:,} examples of {Path(place.root).name}" if count > 1 else Path(place.root).name
    console.print(f"{task} on {what} ({place.format})", soft_wrap=True, markup=False)


def side_by_side(console: Console, models: Sequence[Sequence[Row]]) -> None:
    """Metrics of several models, and the change against the first dense one; parts of a whole are left out."""
    dense = next((own for own in models if own[0].pruner == "dense"), None)
    table = Table("metric", box=None, pad_edge=False)
    seeds = {own[0].seed for own in models if own[0].sparsity}
    for own in models:
        table.add_column(escape(_heading(own[0], seeded=len(seeds) > 1)), justify="right")
        if dense is not None and own is not dense:
            table.add_column("change", justify="right")
    values = [{row.metric: row.value for row in own} for own in models]
    for metric in (m for m in values[0] if "/" not in m and not m.endswith("_r_mean")):
        cells = [cell for own in zip(models, values, strict=True) for cell in _cells(own, metric, dense)]
        table.add_row(metric, *cells)
    print_table(table)
    notes(console, [own[0] for own in models])


def _heading(row: Row, *, seeded: bool) -> str:
    """'wanda (2:4) 0.5', with its seed where others have another."""
    pruner = named(row.pruner, row.provenance["config"].get("pruner"))
    level = f" {row.sparsity:g}" if row.sparsity else ""
    return f"{pruner}{level}" + (f", seed {row.seed}" if seeded and row.sparsity else "")


def notes(console: Console, rows: Iterable[Row]) -> None:
    """What has to be known about metrics, each once."""
    for metric, note in dict.fromkeys(told for row in rows for told in row.provenance.get("notes", {}).items()):
        console.print(f"{metric}: {note}", soft_wrap=True, markup=False)


def next_step(console: Console, out: str) -> None:
    """What shows all rows."""
    console.print(f"next: vlp-bench report out={out}", soft_wrap=True, markup=False)


def _cells(model: tuple[Sequence[Row], Mapping[str, float]], metric: str, dense: Sequence[Row] | None) -> Iterator[str]:
    rows, values = model
    value = values.get(metric, math.nan)
    yield "–" if math.isnan(value) else f"{value:.2f}"
    if dense is not None and rows is not dense:
        change = value - next((row.value for row in dense if row.metric == metric), math.nan)
        yield "–" if math.isnan(change) else f"{change:+.2f}"


def written(console: Console, found: Sequence[tuple[Solution, Path]], seconds: float, peak: float | None) -> None:
    """Sparsity by modality, time, memory, where it lies, and what to type next."""
    table = Table("modality", box=None, pad_edge=False)
    for name in ("weights", *(f"at {s.report['sparsity']['asked']:g}" for s, _ in found)):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [[row for row in solution.table() if not row.block] for solution, _ in found]
    for own in zip(*rows, strict=True):
        cells = (f"{100 * row.sparsity:.2f} %" for row in own)
        table.add_row(own[0].modality or "all", f"{own[0].total:,}", *cells)
    print_table(table)
    memory = "" if peak is None else f", at most {peak:.1f} GB"
    console.print(f"pruned in {seconds:.1f} s{memory}", soft_wrap=True)
    for _, folder in found:
        console.print(f"written: {escape(str(folder))}", soft_wrap=True)
    console.print(f"next: vlp-bench export report {escape(str(found[0][1]))}", soft_wrap=True)
