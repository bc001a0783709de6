"""Scores of groups become budgets in proportion to them (ECoFLaP, Sung et al., ICLR 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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
        compat: "official" gives the counts behind `released_ratios`: 0 to a few too many.

    Raises:
        ValueError: a score that is negative or not finite.
    """
    _check(scores)
    if compat == "official":
        return [int(count) for count in _released_counts(scores, sizes, kept, max_sparsity).tolist()]
    least = [min(size, math.ceil(size * (1 - max_sparsity) - 1e-9)) for size in sizes]
    keep, wishes = least.copy(), list(scores)
    while (left := kept - sum(keep)) > 0:
        unfilled = [i for i, size in enumerate(sizes) if keep[i] < size and wishes[i] > 0]
        if not unfilled:
            wishes = [float(size - own) for size, own in zip(sizes, keep, strict=True)]
            continue
        whole = sum(wishes[i] for i in unfilled)
        for i in unfilled:
            keep[i] = min(sizes[i], keep[i] + math.ceil(wishes[i] / whole * left))
    return _settled(keep, least, sum(keep) - kept)


def _check(scores: Sequence[float]) -> None:
    for score in scores:
        if not 0 <= score < math.inf:
            raise ValueError(f"the importance of a group is at least 0 and finite, got {score}")


def _settled(keep: list[int], least: Sequence[int], excess: int) -> list[int]:
    """Takes the excess from the groups that keep most: of what is above their least, and of that if it's too much."""
    order = sorted(range(len(keep)), key=lambda i: -keep[i])
    for limits in (least, [0] * len(keep)):
        for i in order:
            change = min(excess, keep[i] - limits[i])
            keep[i] -= change
            excess -= change
    return keep


def released_ratios(scores: Sequence[float], sizes: Sequence[int], kept: int, max_sparsity: float) -> list[float]:
    """The sparsity of each group as ECoFLaP's released code finds it, in float32.

    Args: as those of `proportional_budgets`.
    """
    _check(scores)
    counts = _released_counts(scores, sizes, kept, max_sparsity)
    return (1 - counts / torch.tensor(sizes)).tolist()


def _released_counts(scores: Sequence[float], sizes: Sequence[int], kept: int, max_sparsity: float) -> Tensor:
    """(groups,) float32. Shares are rounded up; what that gives out too much is added once more (a slip of sign)."""
    room, wishes = torch.tensor(sizes), torch.tensor(scores, dtype=torch.float32)
    floor = (room * (1 - max_sparsity)).ceil()
    counts = floor.clone()
    while (left := kept - counts.sum()) > 0:
        if not wishes.sum() > 0:  # the released code divides 0 by 0; here the groups share in proportion to their room
            wishes = (room - counts).float()
        given = (wishes / wishes.sum() * left).ceil()
        wishes[counts + given >= room] = 0
        counts = (counts + given).minimum(room)
    excess = counts.sum() - kept
    for i in torch.argsort(counts, descending=True, stable=True).tolist():
        again = torch.minimum(excess, counts[i] - (room[i] * (1 - max_sparsity)).floor())
        counts[i] += again
        excess = excess - again
    return counts.minimum(room)
