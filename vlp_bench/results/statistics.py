"""How sure a comparison of pruners can be with few seeds: spread, paired differences, tests inside a seed, ranks.

A frame here is that of `Store.query()`: a row per number. A *cell* is an experiment at one sparsity with one metric. A
run that failed (status ERR) has no value: it never enters a mean, and it is counted wherever a mean is shown. scipy and
pandas do the arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from vlp_bench.results.store import matching

SMALLER = ("perplexity",)
"""Metrics of which the smaller value is the better one."""
CELL = ["exp", "benchmark", "sparsity", "metric"]
FEWEST = 3  # seeds that an interval or a test over seeds needs
NO_SPREAD = 1e-9  # a standard deviation, in points, that is rounding alone
KEYS = ["exp", "benchmark", "pruner", "sparsity", "metric"]
SEEDS = ("seed", "pruning_seed")


# Over seeds


def summary(frame: pd.DataFrame, metrics: Sequence[str], *, confidence: float = 0.95) -> pd.DataFrame:
    """Mean, std (ddof 1), t-interval (low, high) and seeds of every pruner in every cell, with its failed runs.

    A single seed has no deviation; fewer than three, or seeds without spread, have no interval (NaN). That of three is
    2.5 standard deviations wide to each side: it is as wide as it is honest. Where pruning seeds are crossed with
    fine-tuning seeds, see `_over_seeds`.
    """
    table = _over_seeds(_values(frame, metrics), "value", confidence).drop(columns="p")
    failed = matching(frame, split="test", status="ERR").groupby(KEYS[:-1]).agg(failed=("run", "nunique"))
    missing = failed.reset_index().merge(pd.DataFrame({"metric": list(metrics)}), how="cross")
    table = table.merge(missing, on=KEYS, how="outer").fillna({"failed": 0, "seeds": 0})
    return table.astype({"failed": int, "seeds": int}).sort_values(KEYS, ignore_index=True)


def _over_seeds(rows: pd.DataFrame, value: str, confidence: float) -> pd.DataFrame:
    """Per pruner and cell: mean and std (ddof 1) of all runs, seeds, t-interval (low, high), p of a mean of zero.

    Runs that share a seed are not independent. Crossed with pruning seeds (a column `pruning_seed`), interval and p are
    of the means over one kind of seed, whichever are less sure, and `seeds` is how many there are of the commoner kind.
    """
    found = rows.groupby(KEYS)[value]
    table = pd.DataFrame({"mean": found.mean(), "std": found.std(ddof=1), "seeds": 0, "half": np.nan, "p": np.nan})
    for kind in [name for name in SEEDS if name in rows]:
        means = pd.Series(rows.groupby([*KEYS, kind])[value].mean()).groupby(KEYS)
        std, count = means.std(ddof=1).to_numpy(), means.count().to_numpy()
        error = np.where(_tells(std, count), std / np.sqrt(count), np.nan)
        p = 2 * stats.t.sf(np.abs(table["mean"] / error), count - 1)
        half = np.fmax(table["half"], half_width(std, count, confidence))
        table = table.assign(seeds=np.maximum(table["seeds"], count), half=half, p=np.fmax(table["p"], p))
    table = table.assign(low=table["mean"] - table["half"], high=table["mean"] + table["half"])
    return table.drop(columns="half").reset_index()


def half_width(std: np.ndarray, count: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Half of the t-interval of a mean of `count` values; NaN for fewer than three, and for values without spread."""
    n = np.where(_tells(std, count), count, np.nan)
    return stats.t.ppf((1 + confidence) / 2, n - 1) * std / np.sqrt(n)


def _tells(std: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Where a spread says how sure a mean is: of two values, or of equal ones, it says nothing."""
    return (count >= FEWEST) & (std > NO_SPREAD)


def _values(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    good = matching(frame, split="test", status="ok", metric=list(metrics))
    return good.assign(value=good["value"].astype(float))


def differences(
    frame: pd.DataFrame, baseline: str, metrics: Sequence[str], *, confidence: float = 0.95
) -> pd.DataFrame:
    """Per-seed differences to a baseline, paired by setting: the same data, recipe and seed, another pruner.

    Returns per pruner and cell: mean and std (ddof 1) of the differences, t-interval, p of the paired t-test, the same
    after Holm's correction over the table (`p_holm`), seeds (see `_over_seeds`). Interval and p are NaN for fewer than
    three seeds, and where the differences have no spread. Dense is compared at every sparsity.
    """
    paired = pairs(frame, baseline, metrics)
    table = _over_seeds(paired, "difference", confidence)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def pairs(frame: pd.DataFrame, baseline: str, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of every other pruner with the baseline's value beside: columns `base`, `base_run` and `difference`."""
    good = _values(frame, metrics)
    base = matching(good, pruner=baseline)
    if base.empty:
        raise ValueError(
            f"no test rows of the baseline {baseline!r}; there are {', '.join(sorted(set(good['pruner'])))}"
        )
    on = ["setting", "metric"]  # whose setting has no seed (a model measured as it is) has one dense model for all
    on += [] if bool(np.all(base["sparsity"] == 0)) else ["sparsity", "seed"]
    base = base.assign(base=base["value"], base_run=base["run"]).loc[:, [*on, "base", "base_run"]]
    found = good.loc[good["pruner"] != baseline, :].merge(base, on=on)
    return found.assign(difference=found["value"] - found["base"])


def by_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Where the spread comes from when pruning seeds and fine-tuning seeds are crossed.

    Needs a column `pruning_seed`. Returns per pruner and cell the std (ddof 1) of the means over pruning seeds
    (`std_pruning`) and of those over fine-tuning seeds (`std_tuning`), NaN where there is one seed only.
    """
    good = matching(frame, split="test", status="ok")
    parts = {
        f"std_{name}": pd.Series(good.groupby([*KEYS, seed])["value"].mean()).groupby(KEYS).std(ddof=1)
        for name, seed in (("pruning", "pruning_seed"), ("tuning", "seed"))
    }
    return pd.DataFrame(parts).reset_index()


# Inside a seed: two runs on the same test examples


@dataclass(frozen=True)
class Bootstrap:
    """Mean difference over examples, its percentile interval, and how many things were drawn again.

    The interval is NaN where the difference is the same everywhere: drawing again says nothing then.
    """

    difference: float
    low: float
    high: float
    units: int


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Interval of mean(first - second) when examples are drawn again with replacement.

    Args:
        first, second: (n,) values of the same examples, in the unit of the metric.
        clusters: (n,) what belongs together and is drawn together (the five captions of an image are no five
            independent examples); None: every example by itself.

    Raises:
        ValueError: the two have other shapes, or there are fewer than two things to draw.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"two runs on the same examples are needed, got values of {first.shape} and {second.shape}")
    groups = np.arange(len(first)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sums, counts = np.bincount(groups, weights=first - second), np.bincount(groups)
    if len(sums) < 2:
        raise ValueError(f"a bootstrap needs at least two examples or clusters, got {len(sums)}")
    if np.ptp(sums / counts) == 0:  # the same difference everywhere: nothing to draw
        return Bootstrap(float(np.mean(first - second)), float("nan"), float("nan"), len(sums))
    found = stats.bootstrap(
        (sums, counts.astype(float)), _ratio, paired=True, n_resamples=draws, batch=500, method="percentile",
        confidence_level=confidence, rng=np.random.default_rng(seed),
    )  # fmt: skip
    interval = found.confidence_interval
    return Bootstrap(float(np.mean(first - second)), float(interval.low), float(interval.high), len(sums))


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis=axis) / counts.sum(axis=axis)


@dataclass(frozen=True)
class McNemar:
    """Examples that only one of two runs has right, and the probability of so uneven a split by chance."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """The exact test (binomial) on right and wrong, (n,) bool each; p = 1 where no example tells them apart.

    It takes examples as independent: for captions that share an image prefer `paired_bootstrap` with clusters.
    """
    if first.shape != second.shape or first.dtype != bool or second.dtype != bool:
        raise ValueError(f"right and wrong of the same examples are needed, got {first.dtype} {first.shape}, "
                         f"{second.dtype} {second.shape}")  # fmt: skip
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    apart = only_first + only_second
    p = float(stats.binomtest(only_first, apart, 0.5).pvalue) if apart else 1.0
    return McNemar(only_first, only_second, p)


# Over cells


def over_shared_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the test rows of seeds that not every pruner of a cell has finished.

    A pruner that has finished none there has no say. Crossed with pruning seeds, seeds are pairs of the two.
    """
    frame = frame.reset_index(drop=True)
    good = matching(frame, split="test", status="ok")
    seed = [name for name in SEEDS if name in frame]
    there, having = (good.groupby([*CELL, *own])["pruner"].transform("nunique").to_numpy(int) for own in ([], seed))
    return frame.drop(good.index[having < there])


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """`summary` as a matrix: a row per cell, a column per pruner, the mean; NaN: not run, -inf: all failed.

    Larger is better: the means of SMALLER have their sign turned.
    """
    better = table["mean"].where(~table["metric"].isin(SMALLER), -table["mean"])
    lost = table.assign(value=better.where(table["seeds"] > 0, -np.inf))
    return lost.loc[lost["sparsity"] > 0, :].pivot(index=CELL, columns="pruner", values="value")


def average_ranks(matrix: pd.DataFrame) -> pd.DataFrame:
    """Average rank of every pruner over the cells that all have (1 is best, ties share, a failed cell is last).

    Returns columns pruner, rank, cells, failed; best first. Larger is better, see `cells`.
    """
    whole = matrix.dropna()
    ranks = whole.rank(axis=1, ascending=False, method="average")
    table = pd.DataFrame({"rank": ranks.mean(), "failed": (whole == -np.inf).sum()})
    return table.assign(cells=len(whole)).rename_axis("pruner").sort_values("rank", kind="stable").reset_index()


def clustered(frame: pd.DataFrame, baseline: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Sign-flip test of every pruner against a baseline over models, with Holm's correction.

    Cells of one model are not independent, so a model is one observation: the mean of its differences over the cells
    both pruners finished, each over the settings and seeds both finished (see `pairs`). p is the share of all ways to
    turn the models' signs that give a mean at least as far from 0: with m models no p is below 2 / 2^m, and a single
    model has none (NaN).

    Returns columns pruner, cells, models, ahead (models with a mean above 0), median (of the cells' differences), p,
    p_holm.

    Raises:
        ValueError: the baseline has no rows.
    """
    each: pd.DataFrame = pairs(frame, baseline, metrics).groupby(["pruner", *CELL])[["value", "base"]].mean()  # pyright: ignore[reportAssignmentType]
    found = each.reset_index()
    sign = np.where(found["metric"].isin(SMALLER), -1.0, 1.0)
    found = found.assign(difference=sign * (found["value"] - found["base"]))
    pruned = frame.loc[frame["split"].eq("test") & (frame["sparsity"] > 0), "pruner"]
    rows = []
    for pruner in sorted(set(pruned) - {baseline}):
        own = matching(found, pruner=pruner)
        difference = own["difference"].to_numpy(float)
        models = np.array([str(exp).partition("_")[0] for exp in own["exp"]], dtype=str)
        means = np.array([difference[models == model].mean() for model in np.unique(models)])
        rows.append(
            {"pruner": pruner, "cells": len(difference), "models": len(means), "ahead": int((means > 0).sum()),
             "median": float(np.median(difference)) if len(difference) else np.nan, "p": _sign_flip(means)}
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=["pruner", "cells", "models", "ahead", "median", "p"])
    return table.assign(p_holm=holm(table["p"].to_numpy())).sort_values(
        "median", ascending=False, ignore_index=True, kind="stable"
    )


@dataclass(frozen=True)
class TwoWay:
    """How much of a grid's spread lies between its rows, between its columns, and in how the two meet.

    Shares of the sum of squares about the mean, 0 to 1, which add up to 1; `*_range` is the least and the largest when
    any one row or column is left out. p of rows and columns is the F test's against what is left (a grid with one value
    a cell has no other error to be measured against); NaN where nothing is left.
    """

    rows: float
    columns: float
    rest: float
    rows_range: tuple[float, float]
    columns_range: tuple[float, float]
    p_rows: float
    p_columns: float


def two_way(grid: pd.DataFrame) -> TwoWay:
    """Two-way analysis of variance, without replication, of a whole grid (a value a cell; at least 3 x 3).

    Raises:
        ValueError: a cell has no value, the grid is too small, or all of its values are equal.
    """
    values = grid.to_numpy(dtype=float)
    if min(values.shape) < FEWEST or not np.isfinite(values).all():
        raise ValueError(f"a two-way analysis needs every cell of at least 3 rows and 3 columns, got {grid.shape}")
    if values.std() <= NO_SPREAD:
        raise ValueError("all cells of the grid are equal: there is no spread to share out")
    rows, columns, rest = _squares(values)
    less = [np.delete(values, i, axis) for axis in (0, 1) for i in range(values.shape[axis])]
    parts = np.array([_squares(one)[:2] / _squares(one).sum() for one in less if one.std() > NO_SPREAD])
    low, high = parts.min(0), parts.max(0)
    n, m = values.shape
    error = rest / ((n - 1) * (m - 1))
    whole = rows + columns + rest

    def p(square: float, levels: int) -> float:
        f = square / (levels - 1) / error if error > NO_SPREAD else np.nan
        return float(stats.f.sf(f, levels - 1, (n - 1) * (m - 1)))

    return TwoWay(
        rows=rows / whole,
        columns=columns / whole,
        rest=rest / whole,
        rows_range=(float(low[0]), float(high[0])),
        columns_range=(float(low[1]), float(high[1])),
        p_rows=p(rows, n),
        p_columns=p(columns, m),
    )


def _squares(values: np.ndarray) -> np.ndarray:
    """Sums of squares between rows, between columns and of what is left, of (n, m) values."""
    n, m = values.shape
    mean = values.mean()
    rows, columns = m * ((values.mean(1) - mean) ** 2).sum(), n * ((values.mean(0) - mean) ** 2).sum()
    return np.array([float(rows), float(columns), max(0.0, float(((values - mean) ** 2).sum() - rows - columns))])


def _sign_flip(values: np.ndarray) -> float:
    """Two-sided p of the mean of independent values that are symmetric about 0; NaN of fewer than two, or of zeros."""
    if len(values) < 2 or not np.any(values):
        return float("nan")
    signs = np.array(list(product((-1, 1), repeat=len(values))))
    return float(np.mean(np.abs(signs @ values) >= np.abs(values.sum()) - NO_SPREAD))


def holm(p: "pd.Series | Sequence[float] | np.ndarray") -> np.ndarray:
    """Holm's step-down correction: the i-th smallest of m is multiplied by m - i, made monotone and cut at 1.

    A NaN is no test and stays one.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN sorts last
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
