"""Budgets: kept weights per layer as integers; a sparsity is a float only at the edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.statistics.calibration import Calibration

Allocate = Callable[[Calibration, float], dict[str, int]]  # (calibration, sparsity) -> kept weights per layer


def kept_of(total: int, sparsity: float, compat: Compat = "corrected") -> int:
    """The budget of `total` weights: (1 - s)·total, rounded; the released code removes int(s·total)."""
    return total - int(sparsity * total) if compat == "official" else round((1 - sparsity) * total)


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
