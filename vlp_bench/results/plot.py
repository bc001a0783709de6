"""A metric against sparsity, one line per pruner, error bars over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from vlp_bench.results.store import matching

LABELS = {
    "txt_r1": "text R@1 (%)",
    "img_r1": "image R@1 (%)",
    "r_mean": "mean recall (%)",
    "accuracy": "accuracy (%)",
    "majority": "accuracy of the majority answer (%)",
    "truth": "captions true in every clause (%)",
    "bleu4": "BLEU@4",
    "bleu4_regex": "BLEU@4, words cut without Java",
    "cider": "CIDEr",
    "cider_regex": "CIDEr, words cut without Java",
}


def plot_sparsity(
    table: pd.DataFrame, pruners: Sequence[str], metrics: Sequence[str], title: str, files: Sequence[Path]
) -> None:
    """Draw one panel per metric of `spread`'s table and save it to every file; dense is a level line with its band."""
    with mpl.rc_context({"svg.hashsalt": "vlp_bench", "font.size": 9}):
        figure = Figure(figsize=(5 * len(metrics), 4), layout="constrained")
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            _panel(axes, matching(table, metric=metric), pruners, metric)
        figure.suptitle(title, fontsize=9)
        for file in files:
            metadata = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(file, dpi=150, metadata=metadata)


def _panel(axes: Any, table: pd.DataFrame, pruners: Sequence[str], metric: str) -> None:
    for pruner in pruners:
        line = matching(table, pruner=pruner).sort_values("sparsity")
        if line.empty:
            continue
        spread = line["std"].fillna(0.0)
        if pruner == "dense":
            mean, std = float(line["mean"].iloc[0]), float(spread.iloc[0])
            axes.axhline(mean, color="black", linestyle="--", linewidth=1, label="dense")
            axes.axhspan(mean - std, mean + std, color="black", alpha=0.1, linewidth=0)
        else:
            axes.errorbar(100 * line["sparsity"], line["mean"], spread, marker="o", capsize=3, label=pruner)
    axes.set_xticks(sorted({100 * level for level in table["sparsity"] if level > 0}))
    axes.set_xlabel("sparsity (%)")
    axes.set_ylabel(LABELS.get(metric, metric))
    axes.grid(alpha=0.3)
    if axes.has_data():  # every run may have failed
        axes.legend(fontsize=8)
