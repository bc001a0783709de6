"""Numbers the papers printed, and which of ours they may stand beside."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

COLUMNS = ["source", "table", "model", "pruner", "sparsity", "dataset", "metric", "value", "std", "note"]
DATASETS = {"itr": "coco_itr", "ic": "coco_caption", "vqa": "vqav2"}
"""Task of an experiment's name (xvlm_itr) -> the data set of the papers' tables; others are called as their set."""
ZERO_SHOT = {"blip2": {"ic": "nocaps", "itr": "flickr30k"}, "clip": {}}
"""Models that are never fine-tuned: everything published of them is of such runs, on these sets where they differ."""
LABELLED = {"cifar-100": "cifar100", "cifar-10": "cifar10", "flowers": "flowers102"}
"""A word in the path of a labelled data set -> its name in the papers' tables."""


def load(files: Iterable[Path]) -> pd.DataFrame:
    """All published numbers, one row each; a number printed in two tables is kept once.

    Raises:
        ValueError: a file has other columns; the message names it.
    """
    parts = []
    for file in sorted(files):
        part = pd.read_csv(file, dtype={"table": str, "note": str})
        if list(part.columns) != COLUMNS:
            raise ValueError(f"{file} has the columns {list(part.columns)}, expected {COLUMNS}")
        parts.append(part)
    frame = pd.concat(parts) if parts else pd.DataFrame(columns=COLUMNS)
    return frame.drop_duplicates(subset=["model", "pruner", "sparsity", "dataset", "metric", "value", "note"])


def of(published: pd.DataFrame, exp: str, source: str = "") -> pd.DataFrame:
    """What was published of an experiment (model_task): columns pruner, sparsity, metric, value, table.

    `source` is the description of its data: it tells which of several labelled sets a classification is of.

    Numbers with conditions of their own (a ridge, one epoch, no fine-tuning) are left out: they belong to another run.
    """
    model, _, task = exp.partition("_")
    labelled = next((name for word, name in LABELLED.items() if word in source.lower()), "")
    dataset = ZERO_SHOT.get(model, {}).get(task) or DATASETS.get(task) or (labelled if task == "cls" else task)
    found = published.loc[published["model"].eq(model) & published["dataset"].eq(dataset), :]
    conditions = "implausible" if model in ZERO_SHOT else "ridge=|epoch|fine-tun|implausible"
    conditional = found["note"].fillna("").str.contains(conditions)
    found = found.loc[~conditional & found["value"].notna(), ["pruner", "sparsity", "metric", "value", "table"]]
    return found.drop_duplicates(subset=["pruner", "sparsity", "metric"])
