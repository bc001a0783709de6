"""Results that were recorded once and are shipped, so that a first run has something to be compared with."""

from pathlib import Path

import pandas as pd

from vlp_bench.results.store import matching

PACKAGE = Path(__file__).resolve().parents[1]
READABLE = "world"  # the benchmark on which no pruner is either whole or dead
WORLD = Path("experiments", "readable_range", "results.csv")
PLACES = {  # benchmark -> installed; in a checkout
    "mini": (PACKAGE / "assets" / "recorded.csv", PACKAGE.parent / "docs" / "results.csv"),
    READABLE: (PACKAGE / WORLD, PACKAGE.parent / WORLD),
}
SHOWN = ("dense", "omp", "lamp")  # beside a run's own pruner in its picture
COLLAPSED, KEPT = 0.1, 0.9  # shares of the dense model's number


def recorded(exp: str, weights: str | None, benchmark: str = "mini") -> pd.DataFrame:
    """Shipped rows of an experiment's own recipe that began from the weights with this hash; maybe none."""
    rows = _tested(exp, benchmark)
    rows = rows if rows.empty else matching(rows, weights=weights)
    return rows.loc[rows["epochs"].eq(rows["epochs"].min()), :] if "epochs" in rows else rows


def readable(exp: str, pruner: str, metric: str) -> str:
    """Where more is left of an experiment's model, and how much of this pruner's; empty if there are no such rows."""
    rows = _tested(exp, READABLE)
    if rows.empty:
        return ""
    there = levels(rows, pruner, metric)
    told = f"; recorded there for {pruner}: {there}" if there else ""
    return f"benchmark={READABLE} has longer recipes and a wider XVLM, so that more is left to compare{told}"


def _tested(exp: str, benchmark: str) -> pd.DataFrame:
    file = next((place for place in PLACES.get(benchmark, ()) if place.is_file()), None)
    if file is None:
        return pd.DataFrame()
    return matching(pd.read_csv(file, dtype={"weights": str}), exp=exp, split="test")


def told(frame: pd.DataFrame) -> str:
    """Where recorded rows come from, in a few words."""
    times, commits = frame["time"].str[:10], frame["commit"].str[:8].unique()
    days = times.min() if times.min() == times.max() else f"{times.min()} to {times.max()}"
    return f"{days} with {len(commits)} version{'s' * (len(commits) > 1)} of this code ({', '.join(commits[:3])} ...)"


def collapsed(own: float, dense: float, blind: float = 0.0) -> bool:
    """Whether next to nothing is left of what the dense model is ahead of always giving the commonest answer."""
    return own - blind < COLLAPSED * (dense - blind)


def verdict(own: float, dense: float, blind: float = 0.0) -> str:
    """What a number says beside the dense model's and, where that says something, beside the commonest answer's."""
    share, beside = own / dense if dense else 1.0, f" (always the commonest answer: {blind:.2f})" if blind else ""
    if collapsed(own, dense, blind):
        return (
            f"the model has collapsed{beside}: too few weights are left for so small a model and so short a fine-tuning"
        )
    kept = f"{100 * share:.0f} % of the dense model's number is kept{beside}"
    return kept if share < KEPT else f"{kept}: little is lost"


def levels(frame: pd.DataFrame, pruner: str, metric: str) -> str:
    """'85.40 at 63 %, 41.87 at 75 %': recorded means of a pruner; empty without rows."""
    rows = matching(frame, pruner=pruner, metric=metric, status="ok")
    means = rows.groupby("sparsity")["value"].agg(mean="mean").reset_index().to_dict("records")
    return ", ".join(f"{row['mean']:.2f} at {100 * row['sparsity']:g} %" for row in means)


def replaced(frame: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Recorded rows and a user's own, which take the place of recorded ones of the same pruner and sparsity."""
    mine = set(zip(own["pruner"], own["sparsity"], strict=True))
    beside = [spot not in mine for spot in zip(frame["pruner"], frame["sparsity"], strict=True)]
    return pd.concat([part for part in (frame.loc[beside, :], own) if len(part)])
