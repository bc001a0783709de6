"""Thresholds: how many weights each layer keeps when layers compete, and the masks of the largest within a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from vlp_bench.pruning.ranking import SMALL, Thunk, keys_of, locate, place_of, sample_of

Ties = Literal["first", "none"]


def kept_per_layer(scores: Mapping[str, Thunk], kept: Sequence[int], *, ties: Ties = "first") -> list[dict[str, int]]:
    """How many weights each layer keeps when the layers compete for `kept` places, for several totals at once.

    Args:
        scores: per layer a function that computes its float scores (any shape); larger survives. Called twice, rarely
            more often.
        kept: the totals; each between 0 and the number of scores.
        ties: "first": exactly `kept` survive, equal scores in order of layer, then of index. "none": the released
            MULTIFLOW code's rule, where only what exceeds the largest *removed* score survives: all ties go.

    Raises:
        ValueError: a layer's scores hold NaN.
    """
    sample, sizes = sample_of(scores)
    assert all(0 <= total <= sum(sizes) for total in kept), (kept, sizes)
    extra = ties == "none"
    ranks = {total: total + extra for total in kept if total + extra > 0 and total < sum(sizes)}
    places = locate(scores, list(ranks.values()), sample)
    found = []
    for total in kept:
        if total not in ranks:
            budgets = sizes if total else [0] * len(sizes)
        else:
            place = places[ranks[total]]
            budgets = place.above if extra else place.budgets(total)
        found.append(dict(zip(scores, budgets, strict=True)))
    return found


def keep_largest(scores: Tensor, kept: int, *, name: str = "scores", ties: Ties = "first") -> Tensor:
    """Mask (same shape, True = kept) of the `kept` largest scores; among equals the lower index wins.

    With `ties="none"` fewer may survive: every weight that equals the largest removed one goes too.
    """
    scores = scores.detach().float().contiguous()
    if kept >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    rank = max(kept, 1) if ties == "first" else kept + 1
    threshold = largest_value(scores, rank, name)
    mask = scores > threshold
    if ties == "first" and kept:
        missing = kept - int(torch.count_nonzero(mask))
        mask.view(-1)[torch.nonzero((scores == threshold).view(-1)).view(-1)[:missing]] = True
    return mask if kept else torch.zeros_like(mask)


def largest_value(scores: Tensor, rank: int, name: str = "scores") -> Tensor:
    """The `rank`-th largest score (1 = the largest), as a scalar tensor. Raises ValueError for NaN."""
    if scores.numel() <= SMALL:
        keys_of(name, scores.reshape(-1).view(torch.int32))
        return scores.reshape(-1).kthvalue(scores.numel() + 1 - rank).values
    layer = {name: lambda: scores}
    return place_of(layer, rank).score.to(scores.device)


def keep_largest_per_row(scores: Tensor, kept: int) -> Tensor:
    """Mask (d_out, d_in) with `kept` weights in all, spread evenly over the rows; the first rows take the remainder."""
    rows, columns = scores.shape
    share, longer = divmod(kept, rows)
    parts = [_rows(scores[:longer], min(share + 1, columns)), _rows(scores[longer:], share)]
    return torch.cat(parts)


def _rows(scores: Tensor, kept: int) -> Tensor:
    """Mask of the `kept` largest scores of every row; among equals the lower index wins."""
    if not kept or not len(scores):
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.shape[1] + 1 - kept, dim=1, keepdim=True).values
    mask = scores >= threshold
    if int(torch.count_nonzero(mask)) > kept * len(scores):  # some row has more ties than places
        above, equal = scores > threshold, scores == threshold
        missing = kept - above.sum(1, keepdim=True)
        mask = above | (equal & (equal.cumsum(1) <= missing))
    return mask
