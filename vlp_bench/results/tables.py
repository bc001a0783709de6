"""Tables are queries: from rows to what a person reads, on the terminal (rich) and in a file (Markdown)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from vlp_bench.pruning.solution import TableRow
from vlp_bench.results.statistics import NO_SPREAD
from vlp_bench.results.store import matching

METRICS = (  # shown first and in this order; what else a run has follows by name
    *("txt_r1", "txt_r5", "txt_r10", "img_r1", "img_r5", "img_r10", "r_mean", "itc_txt_r1", "itc_img_r1"),
    *("doc_r1", "doc_r5", "doc_r10", "name_r1", "name_r5", "name_r10"),
    *("accuracy", "top5", "subjects", "majority", "truth", "grammatical", "perplexity"),
    *("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider", "spice"),
)
PREFERRED = ("txt_r1", "img_r1", "doc_r1", "name_r1", "cider", "bleu4", "meteor", "spice", "truth", "accuracy")
UNSHOWN = ("itc_",)  # recalls before re-ranking but for the two above
REFERENCES = ("dense", "omp")
LABELS = {
    "txt_r1": "text R@1 (%)",
    "img_r1": "image R@1 (%)",
    "doc_r1": "docstring R@1 (%)",
    "name_r1": "name R@1 (%)",
    "r_mean": "mean recall (%)",
    "accuracy": "accuracy (%)",
    "majority": "accuracy of the majority answer (%)",
    "perplexity": "perplexity (smaller is better)",
    "top5": "accuracy of the five likeliest (%)",
    "subjects": "accuracy, mean over subjects (%)",
    "truth": "captions true in every clause (%)",
    "meteor": "METEOR",
    "spice": "SPICE",
    "bleu4": "BLEU@4",
    "bleu4_regex": "BLEU@4, words cut without Java",
    "cider": "CIDEr",
    "cider_regex": "CIDEr, words cut without Java",
}


def sparsity_table(rows: Iterable[TableRow]) -> Table:
    """Sparsity by modality and block, as `Solution.table()` has it: blocks, then their modality, the model last."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(("modality", "block", "weights", "kept", "sparsity")):
        table.add_column(name, justify="left" if number < 2 else "right")
    for row in rows:
        names = (row.modality, _short(row.block) or "all") if row.modality else ("all", "")
        counts = (f"{row.total:,}", f"{row.kept:,}", f"{100 * row.sparsity:.2f} %")
        table.add_row(*names, *counts, style=None if row.block else "bold", end_section=not row.block)
    return table


def _short(block: str) -> str:
    """The last two words of a block's dotted name, so that the table fits a narrow terminal."""
    return ".".join(block.split(".")[-2:])


# Metrics of one run beside its references


def metrics_table(
    frame: pd.DataFrame, row: Mapping[str, Any], recorded: pd.DataFrame | None = None, label: str = ""
) -> Table:
    """Test metrics of the run described by `row`, with the change against dense and OMP where those rows exist.

    Args:
        frame: `Store.query()`.
        row: the columns pruner, sparsity, seed, run and setting of the run (`Specification.identity()`).
        recorded: shipped rows of the same setting, whatever its hash, for references that `frame` lacks; marked so.
        label: what the run's pruner is called, where its name does not say all.
    """
    own = test_values(frame, run=row["run"])
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column(f"{label or row['pruner']} {row['sparsity']:g}", justify="right")
    references = {name: values for name in REFERENCES if (values := reference_values(frame, row, name))}
    if recorded is not None and not recorded.empty:
        marked = recorded.assign(setting=row["setting"])
        for name in missing_references(frame, row):
            references |= {f"{name} (recorded)": values} if (values := reference_values(marked, row, name)) else {}
    for name in references:
        table.add_column(name, justify="right")
        table.add_column("change", justify="right")
    for metric in shown(own):
        cells = [cell for values in references.values() for cell in _change(own[metric], values.get(metric))]
        table.add_row(metric, f"{own[metric]:.2f}", *cells)
    return table


def shown(names: Iterable[str]) -> list[str]:
    """The metrics of a run as a table lists them: METRICS, then the others; means of recalls are left out."""
    names = list(names)
    others = sorted(name for name in names if name not in METRICS and not name.startswith(UNSHOWN))
    return [name for name in METRICS if name in names] + [n for n in others if not n.endswith("_r_mean")]


def headlines(names: Iterable[str]) -> list[str]:
    """The metrics that stand for a task: the papers' where there are some, else up to four."""
    there = list(dict.fromkeys(names))
    return [m for m in PREFERRED if m in there] or sorted(m for m in there if not m.startswith(UNSHOWN))[:4]


def _change(own: float, reference: float | None) -> tuple[str, str]:
    if reference is None:
        return "–", "–"
    return f"{reference:.2f}", f"{own - reference:+.2f}"


def test_values(frame: pd.DataFrame, **equal: object) -> dict[str, float]:
    """Test metrics that match, by name. Failed runs have none."""
    found = matching(frame, split="test", status="ok", **equal)
    return dict(zip(found["metric"], found["value"].astype(float), strict=True))


def reference_values(frame: pd.DataFrame, row: Mapping[str, Any], pruner: str) -> dict[str, float]:
    """Metrics of the same setting and seed under another pruner (dense at any sparsity); empty for the run itself."""
    equal: dict[str, object] = {"setting": row["setting"], "seed": row["seed"], "pruner": pruner}
    if pruner != "dense":
        equal["sparsity"] = row["sparsity"]
    return {} if pruner == row["pruner"] else test_values(frame, **equal)


def missing_references(frame: pd.DataFrame, row: Mapping[str, Any]) -> list[str]:
    """Names of the references whose rows are not there yet."""
    names = [] if row["pruner"] == "dense" else [name for name in REFERENCES if name != row["pruner"]]
    return [name for name in names if not reference_values(frame, row, name)]


# Many runs: mean and spread over seeds


def spread(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation (ddof 1) and number of seeds per pruner, sparsity and metric, of test rows.

    Runs that failed count in `failed`; a single seed has no deviation (NaN).
    """
    good = matching(frame, split="test", status="ok", metric=list(metrics))
    values = good.assign(value=good["value"].astype(float)).groupby(["pruner", "sparsity", "metric"])["value"]
    table = values.agg(mean="mean", std=lambda v: v.std(ddof=1), seeds="count").reset_index()
    failed = matching(frame, split="test", status="ERR").groupby(["pruner", "sparsity"]).agg(failed=("run", "nunique"))
    table = table.merge(failed.reset_index(), on=["pruner", "sparsity"], how="outer")  # every seed may have failed
    return table.fillna({"failed": 0}).astype({"failed": int})


def cell(table: pd.DataFrame, pruner: str, sparsity: float, metric: str) -> str:
    """`mean_and_spread` of `spread`; '–' where there is nothing, ERR where every run failed."""
    level = matching(table, pruner=pruner, sparsity=sparsity)
    found = matching(level, metric=metric)
    if found.empty:
        return "ERR" if any(level["failed"] > 0) else "–"
    first = found.to_dict("records")[0]
    most = max(matching(table, sparsity=sparsity, metric=metric)["seeds"].tolist())
    text = mean_and_spread(first["mean"], first["std"], int(first["seeds"]), most)
    return f"{text} ({first['failed']} ERR)" if first["failed"] else text


def mean_and_spread(mean: float, std: float, seeds: int, most: int) -> str:
    """'62.40 ± 1.10'; a single seed has no deviation, equal ones say nothing of it: '62.40 ± –'.

    A mean of fewer seeds than another of its column has (`most`) is marked: '62.40 (1 seed)'.
    """
    spread = "" if pd.isna(std) else f" ± {std:.2f}" if std > NO_SPREAD else " ± –"
    few = f" ({seeds} seed{'s' * (seeds > 1)})" if seeds < most else ""
    return f"{mean:.2f}{spread}{few}"


def comparison(
    table: pd.DataFrame, pruners: Sequence[str], sparsities: Sequence[float], metric: str
) -> list[list[str]]:
    """Rows of text: a head, then per pruner the metric at every sparsity. Dense is one run, whatever the column."""
    rows = [["pruner", *(f"{100 * sparsity:g} %" for sparsity in sparsities)]]
    for pruner in pruners:
        levels = [0.0] * len(sparsities) if pruner == "dense" else sparsities
        rows.append([pruner, *(cell(table, pruner, level, metric) for level in levels)])
    return rows


class Markdown(str):
    """Text that is Markdown already."""


def escaped(text: str) -> str:
    """A text that Markdown shows as it is: no markup, no HTML, no end of a cell or line."""
    if isinstance(text, Markdown):
        return text
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.split()))
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", text)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of rows of text, the first one its head; what is not `Markdown` is escaped."""
    head, *body = ([escaped(cell) for cell in cells] for cells in rows)
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *body]) + "\n"


def text_table(rows: Sequence[Sequence[str]]) -> Table:
    """The same rows for the terminal."""
    head, *body = rows
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for cells in body:
        table.add_row(*cells)
    return table
