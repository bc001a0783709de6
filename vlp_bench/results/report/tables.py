"""The tables of a report: cells with mean, spread and rank, and their forms in Markdown, LaTeX and CSV."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from vlp_bench.results.statistics import SMALLER
from vlp_bench.results.store import matching
from vlp_bench.results.tables import LABELS, Markdown, escaped, mean_and_spread
from vlp_bench.results.tables import markdown as markdown_rows


@dataclass(frozen=True)
class Cell:
    """One pruner at one sparsity. `most`: seeds of the pruner of its column that has most.

    `place` is 1 for the best of its column, 2 for the second, 0 for all others; fewer seeds than others' have none.
    """

    mean: float = math.nan
    std: float = math.nan
    seeds: int = 0
    failed: int = 0
    published: float = math.nan
    place: int = 0
    most: int = 0

    @property
    def text(self) -> str:
        """As `mean_and_spread`; failed runs are counted; '–' where nothing was run."""
        errors = f" ({self.failed} ERR)" if self.failed else ""
        if not self.seeds:
            return f"ERR ({self.failed})" if self.failed else "–"
        return mean_and_spread(self.mean, self.std, self.seeds, self.most) + errors

    @property
    def difference(self) -> float:
        """Ours less the published value."""
        return self.mean - self.published


@dataclass(frozen=True)
class Line:
    """A pruner at every sparsity of the table."""

    pruner: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class MetricTable:
    """One metric of one study. `beside` says whether published values may stand beside ours."""

    metric: str
    sparsities: tuple[float, ...]
    lines: tuple[Line, ...]
    beside: bool

    @property
    def label(self) -> str:
        return LABELS.get(self.metric, self.metric)

    @property
    def own(self) -> tuple[Line, ...]:
        """The lines of a table of ours: those that were run, and where published values stand beside, theirs too."""
        run = tuple(line for line in self.lines if any(cell.seeds or cell.failed for cell in line.cells))
        return self.lines if self.beside else run

    @property
    def has_published(self) -> bool:
        return any(not math.isnan(cell.published) for line in self.lines for cell in line.cells)


def metric_table(
    summary: pd.DataFrame, published: pd.DataFrame, pruners: Sequence[str], sparsities: Sequence[float], metric: str,
    *, beside: bool, once: Collection[str] = (),
) -> MetricTable:  # fmt: skip
    """Cells of `statistics.summary`, with what was published (columns pruner, sparsity, metric, value).

    Dense is one number whatever the column. Best and second are sought among the pruned models with the most seeds. A
    method that was only published has a line where it may stand beside ours, or where published values stand alone.
    `once`: pruners that have no seeds, whose one run is not marked as fewer than others'.
    """
    printed = matching(published, metric=metric, sparsity=[0.0, *sparsities])["pruner"]
    pruners = list(dict.fromkeys([*pruners, *printed]))
    levels = tuple(sparsities) or (0.0,)
    lines = [Line(p, tuple(_cell(summary, published, p, s, metric) for s in levels)) for p in pruners]
    return MetricTable(metric, levels, tuple(_placed(lines, len(levels), metric, once)), beside)


def _cell(summary: pd.DataFrame, published: pd.DataFrame, pruner: str, sparsity: float, metric: str) -> Cell:
    level = 0.0 if pruner == "dense" else sparsity
    own = matching(summary, pruner=pruner, sparsity=level, metric=metric).to_dict("records")
    theirs = matching(published, pruner=pruner, sparsity=level, metric=metric)["value"]
    value = float(theirs.iloc[0]) if len(theirs) else math.nan
    if not own:
        return Cell(published=value)
    first = own[0]
    return Cell(float(first["mean"]), float(first["std"]), int(first["seeds"]), int(first["failed"]), value)


def _placed(lines: list[Line], columns: int, metric: str, once: Collection[str]) -> list[Line]:
    places: dict[tuple[str, int], int] = {}
    pruned = [line for line in lines if line.pruner != "dense"]
    most = [max((line.cells[column].seeds for line in pruned), default=0) for column in range(columns)]
    for column in range(columns):
        compared = [line for line in pruned if line.cells[column].seeds == most[column] > 0]
        means = {line.pruner: round(line.cells[column].mean, 2) for line in compared}
        best = sorted(set(means.values()), reverse=metric not in SMALLER)[:2]
        places |= {(p, column): best.index(m) + 1 for p, m in means.items() if m in best and len(means) > 1}
    return [
        Line(
            line.pruner,
            tuple(
                replace(
                    cell,
                    place=places.get((line.pruner, column), 0),
                    most=0 if line.pruner in once else most[column],
                )
                for column, cell in enumerate(line.cells)
            ),
        )
        for line in lines
    ]


def head(table: MetricTable) -> list[str]:
    """'pruner', then the sparsities."""
    return ["pruner", *(f"{100 * s:g} %" for s in table.sparsities)]


def published_rows(table: MetricTable) -> list[list[str]]:
    """Rows of text with the published values alone, its head first; pruners without any are left out."""
    rows = [[line.pruner, *(_number(c.published) for c in line.cells)] for line in table.lines]
    return [head(table), *(row for row in rows if set(row[1:]) != {"–"})]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def beside_rows(table: MetricTable) -> list[list[str]]:
    """Ours, published and the difference, in three columns a sparsity; the head first."""
    names = [text for s in head(table)[1:] for text in (f"{s}: ours", "published", "difference")]
    body = []
    for line in table.lines:
        texts = [t for c in line.cells for t in (_marked(c), _number(c.published), _signed(c.difference))]
        body.append([line.pruner, *texts])
    return [["pruner", *names], *body]


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _marked(cell: Cell) -> str:
    return Markdown({1: f"**{cell.text}**", 2: f"<u>{cell.text}</u>"}.get(cell.place, cell.text))


def markdown(table: MetricTable) -> str:
    """The table in Markdown: best bold, second underlined; published values beside ours, or below and labelled."""
    if table.beside and table.has_published:
        return f"**{escaped(table.label)}**\n\n{markdown_rows(beside_rows(table))}"
    rows = [head(table), *([line.pruner, *map(_marked, line.cells)] for line in table.own)]
    text = f"**{escaped(table.label)}**\n\n{markdown_rows(rows)}"
    if table.has_published:
        text += f"\n{APART} {escaped(table.label)}\n\n{markdown_rows(published_rows(table))}"
    return text


APART = "Published, on the papers' data and models; not to be compared with the numbers above:"


def latex(table: MetricTable, caption: str) -> str:
    """A booktabs table: best bold, second underlined, the published value in brackets only where it may stand there."""
    rows = [[_escaped(line.pruner), *(_latex_cell(c, table.beside) for c in line.cells)] for line in table.own]
    body = [" & ".join(row) + r" \\" for row in rows]
    top = " & ".join(_escaped(name) for name in head(table)) + r" \\"
    return "\n".join([
        r"\begin{table}[t]", r"\centering", rf"\caption{{{_escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.sparsities)}}}", r"\toprule", top, r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _latex_cell(cell: Cell, beside: bool) -> str:
    text = cell.text.replace("±", r"$\pm$").replace("–", "--")
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.place, text)
    return f"{text} [{cell.published:.2f}]" if beside and not math.isnan(cell.published) else text


def _escaped(text: str) -> str:
    special = {c: rf"\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--"}
    special |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"}
    return "".join(special.get(c, c) for c in " ".join(text.split()))
