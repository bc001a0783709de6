"""Scores of groups become budgets in proportion to them (ECoFLaP, Sung et al., ICLR 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlp_bench.pruning.checks import Compat


def proportional_budgets(
    scores: Sequence[float], sizes: Sequence[int], kept: int, max_sparsity: float, compat: Compat = "corrected"
) -> list[int]:
    """How many weights each group keeps when `kept` places are given out in proportion to their scores.

    Every group keeps 1 - max_sparsity of its weights first. What a full group can't take goes to the others; without
    any score the groups share in proportion to their room. The counts add up to `kept`.

    Args:
        scores: one for each group, none negative.
        sizes: weights in each group.
        kept: places in all.
        max_sparsity: the most that a group may lose.
        compat: "official" adds what rounding gave out too much where it should take it away: 0 to a few too many.

    Raises:
        ValueError: a score that is negative or not finite.
    """
    for score in scores:
        if not 0 <= score < math.inf:
            raise ValueError(f"the importance of a group is at least 0 and finite, got {score}")
    keep = [min(size, math.ceil(size * (1 - max_sparsity) - 1e-9)) for size in sizes]
    wishes = list(scores)
    while (left := kept - sum(keep)) > 0:
        unfilled = [i for i, size in enumerate(sizes) if keep[i] < size and wishes[i] > 0]
        if not unfilled:
            wishes = [float(size - own) for size, own in zip(sizes, keep, strict=True)]
            continue
        whole = sum(wishes[i] for i in unfilled)
        for i in unfilled:
            keep[i] = min(sizes[i], keep[i] + math.ceil(wishes[i] / whole * left))
    return _settled(keep, sizes, sum(keep) - kept, compat)


def _settled(keep: list[int], sizes: Sequence[int], excess: int, compat: Compat) -> list[int]:
    """Takes the excess from the groups that keep most; official: gives the first of them as much again."""
    for i in sorted(range(len(keep)), key=lambda i: -keep[i]):
        if compat == "official":
            keep[i] = min(sizes[i], keep[i] + excess)
            break
        change = min(excess, keep[i])
        keep[i] -= change
        excess -= change
    return keep
