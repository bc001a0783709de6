"""Budgets: kept weights per layer as integers; a sparsity is a float only at the edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral

from vlp_bench.pruning.checks import Compat, name_of
from vlp_bench.pruning.statistics.calibration import Calibration

Allocate = Callable[[Calibration, float], dict[str, int]]  # (calibration, sparsity) -> kept weights per layer


def kept_of(total: int, sparsity: float, compat: Compat = "corrected") -> int:
    """The budget of `total` weights: (1 - s)·total, rounded; the released code removes int(s·total)."""
    return total - int(sparsity * total) if compat == "official" else round((1 - sparsity) * total)


def check_budgets(allocate: Allocate, budgets: Mapping[str, int], calibration: Calibration, sparsity: float) -> None:
    """Holds an allocator to the sparsity: its counts add up to `kept_of(total, sparsity)`.

    An allocator that shares out several budgets, one for each group of layers, or repeats a released rounding says so:
    `may_give(calibration, sparsity)` is the range of its sums.

    Raises:
        ValueError: names the allocator, with what was asked and given.
    """
    name, total = name_of(allocate), calibration.total
    for layer in {**calibration.layers, **budgets}:
        size = calibration.layers[layer].size if layer in calibration.layers else 0
        kept = budgets.get(layer)
        if not isinstance(kept, Integral) or isinstance(kept, bool) or not 0 <= kept <= size:
            raise ValueError(f"{name} gives {layer!r} {kept!r} of its {size} weights: a whole number of them is needed")
    budget, given = kept_of(total, sparsity), sum(budgets.values())
    may_give = getattr(allocate, "may_give", None)
    if given not in (exactly(budget) if may_give is None else may_give(calibration, sparsity)):
        raise ValueError(
            f"{name} was asked for {budget} of {total} weights (sparsity {sparsity:g}) and gives {given} "
            f"(sparsity {1 - given / total:.4g}): its counts must add up to what is asked"
        )


def exactly(count: int) -> range:
    """The range of one number."""
    return range(count, count + 1)


def by_ratio(kept: int, total: int) -> int:
    """A count after it was handed over as a float ratio and truncated: sometimes one more is kept."""
    return total - int((1 - kept / total) * total)


def apportion(kept: int, sizes: Sequence[int]) -> list[int]:
    """Shares of `kept` in proportion to the sizes: they add up to it, and none exceeds its size."""
    total, passed, given, shares = sum(sizes), 0, 0, []
    for size in sizes:
        passed += size
        upto = (2 * kept * passed + total) // (2 * total)
        shares.append(upto - given)
        given = upto
    return shares
