"""Numbers the papers printed, and which of ours they may stand beside."""

import csv
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlp_bench.results.tables import METRICS
from vlp_bench.spelling import did_you_mean

log = logging.getLogger(__name__)
COLUMNS = ["source", "table", "model", "pruner", "sparsity", "dataset", "metric", "value", "std", "note"]
NUMBER = ["pruner", "sparsity", "metric"]
ROUNDED = 0.0501
"""By how much the same number differs that one table prints with one decimal and another with two."""
NAMED = ("model", "pruner", "dataset", "metric")
PRINTED = ("avg_r1", "seconds", "gpu_gb")
"""Metrics that papers print, and no run here has."""
NOTHING = ("", "-", "–", "—", "nan")
"""What stands for no number."""
FILES = "*/published*.csv"
"""Below experiments/: a table of numbers somebody printed, put there, stands in every report and text."""
DATASETS = {
    "itr": ("coco_itr",),
    "ic": ("coco_caption",),
    "vqa": ("vqav2", "vqav2_testdev"),
    "nlvr2": ("nlvr2_test",),
}
"""Task of an experiment's name (xvlm_itr) -> the data set of the papers' tables; others are called as their set."""
ZERO_SHOT = {"blip2": {"ic": "nocaps", "itr": "flickr30k"}, "clip": {}}
"""Models that are never fine-tuned: everything published of them is of such runs, on these sets where they differ."""
LABELLED = {"cifar-100": "cifar100", "cifar-10": "cifar10", "flowers": "flowers102"}
"""A word in the path of a labelled data set -> its name in the papers' tables."""


def load(files: Iterable[Path], measured: Iterable[str] = ()) -> pd.DataFrame:
    """All published numbers, one row each; a number printed in two tables is kept once.

    Args:
        files: of the columns COLUMNS.
        measured: metrics that runs have beside METRICS, of tasks of one's own.

    Raises:
        ValueError: a file is no such table, has a metric that there is not, or one table's number twice; the message
            names it and the line.
    """
    metrics = [*METRICS, *PRINTED, *sorted({*measured} - {*METRICS, *PRINTED})]
    parts = [_read(file, metrics) for file in sorted(files)]
    frame = pd.concat(parts) if parts else pd.DataFrame(columns=COLUMNS)
    return frame.drop_duplicates(subset=["model", "pruner", "sparsity", "dataset", "metric", "value", "note"])


def _read(file: Path, metrics: Sequence[str]) -> pd.DataFrame:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = csv.DictReader(opened)
            columns = lines.fieldnames or []
            if sorted(columns) != sorted(COLUMNS):
                raise ValueError(f"{file} has the columns {', '.join(columns)}; expected {', '.join(COLUMNS)}")
            rows: dict[tuple[str, ...], dict[str, Any]] = {}
            for line in lines:
                place = f"{file}, line {lines.line_num}"
                row = _row(line, place, metrics)
                key = tuple(str(row[name]) for name in COLUMNS if name not in ("value", "std"))
                if key in rows:
                    told = ", ".join(key)
                    raise ValueError(f"{place} is about the same number as a line above it ({told}): keep one")
                rows[key] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as CSV in UTF-8: {error}") from None
    return pd.DataFrame(list(rows.values()), columns=COLUMNS)


def _row(line: Mapping[Any, Any], place: str, metrics: Sequence[str]) -> dict[str, Any]:
    if None in line or None in line.values():
        raise ValueError(f"{place} has not {len(COLUMNS)} fields: a text with commas needs double quotes")
    for name in NAMED:
        if not line[name].strip():
            raise ValueError(f"{place} has no {name}")
    if (metric := line["metric"].strip()) not in metrics:
        near = did_you_mean(metric, metrics)
        raise ValueError(f"{place}: there is no metric {metric!r}; use one of {', '.join(metrics)}{near}")
    numbers = {name: _number(line[name], f"{place}: {name}") for name in ("sparsity", "value", "std")}
    if not (math.isnan(numbers["sparsity"]) or 0 <= numbers["sparsity"] < 1):
        raise ValueError(f"{place}: sparsity is {line['sparsity']}, expected a share in [0, 1), 0.63 for 63 %")
    return {name: text.strip() for name, text in line.items()} | numbers


def _number(text: str, what: str) -> float:
    """NaN where there is none."""
    try:
        return math.nan if text.strip().lower() in NOTHING else float(text)
    except ValueError:
        raise ValueError(f"{what} is {text!r}, expected a number, or nothing") from None


def of(published: pd.DataFrame, exp: str, source: str = "") -> pd.DataFrame:
    """What was published of an experiment (model_task): columns pruner, sparsity, metric, value, table.

    `source` is the description of its data: it tells which of several labelled sets a classification is of.

    Numbers with conditions of their own (a ridge, one epoch, no fine-tuning) are left out: they belong to another run.
    Of a number printed twice, the source that printed most of the experiment has the say; a warning names values that
    differ by more than their rounding.
    """
    model, _, task = exp.partition("_")
    labelled = next((name for word, name in LABELLED.items() if word in source.lower()), "")
    datasets = _datasets(model, task, labelled)
    found = published.loc[published["model"].eq(model) & published["dataset"].isin(datasets), :]
    conditions = "implausible" if model in ZERO_SHOT else "ridge=|epoch|no fine-tun|implausible"
    conditional = found["note"].fillna("").str.contains(conditions)
    if model not in ZERO_SHOT:  # a method's fine-tuned numbers are those of its runs here
        found = found.assign(pruner=found["pruner"].str.removesuffix("_finetuned"))
    found = found.loc[~conditional & found["value"].notna(), :].reset_index(drop=True)
    most = found.groupby("source")["source"].transform("size").sort_values(ascending=False, kind="stable")
    kept = found.loc[most.index, :].drop_duplicates(subset=NUMBER).sort_index()
    _say_what_differs(found, kept, exp)
    return kept.loc[:, [*NUMBER, "value", "table"]]


def _say_what_differs(found: pd.DataFrame, kept: pd.DataFrame, exp: str) -> None:
    beside = kept.loc[:, [*NUMBER, "value", "table"]].merge(found, on=NUMBER, suffixes=("", "_other"))
    for row in beside.loc[(beside["value"] - beside["value_other"]).abs() > ROUNDED, :].to_dict("records"):
        what = f"{exp}: {row['metric']} of {row['pruner']} at {100 * row['sparsity']:g} %"
        other = f"{row['value_other']:g} in {row['source']}, {row['table_other']}"
        log.warning(
            "%s is printed as %g (%s), and as %s: the first stands beside ours", what, row["value"], row["table"], other
        )


def _datasets(model: str, task: str, labelled: str) -> tuple[str, ...]:
    """The data sets of the papers' tables that an experiment is of."""
    if task in ZERO_SHOT.get(model, {}):
        return (ZERO_SHOT[model][task],)
    return DATASETS.get(task, (labelled if task == "cls" else task,))
