"""Thresholds: how many weights each layer keeps when layers compete, and the masks of the largest within a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import eq, ge, gt
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vlp_bench.pruning.selection.across_layers import SMALL, Sample, Thunk, keys_of
from vlp_bench.pruning.selection.order_statistics import order_statistic, search

Ties = Literal["first", "last", "none"]
ThresholdHints = dict[tuple[str, int], float]
"""By layer and number of weights kept: a score that is likely the last kept."""
ReadyMasks = dict[tuple[str, int], Tensor]
"""By layer and number of weights kept: the mask of these, flat; of equals the first are kept, or none."""
LARGE, EVERY = 1 << 17, 13  # scores of one layer of which some are sampled, each for itself: neighbours are alike


def kept_per_layer(
    scores: Mapping[str, Thunk],
    kept: Sequence[int],
    *,
    ties: Literal["first", "none"] = "first",
    threshold_hint: ThresholdHints | None = None,
    masks: ReadyMasks | None = None,
    sample: Sample | None = None,
) -> list[dict[str, int]]:
    """How many weights each layer keeps when the layers compete for `kept` places, for several totals at once.

    Args:
        scores: per layer a function that computes its float scores; larger survives. Called twice, rarely more often;
            that of a single layer once. Without a sample these are tensors of any shape.
        kept: the totals; each between 0 and the number of scores.
        ties: "first": exactly `kept` survive, equal scores in order of layer, then of index. "none": the released
            MULTIFLOW code's rule, where only what exceeds the largest *removed* score survives: all ties go.
        threshold_hint: takes what spares `keep_largest` its search.
        masks: takes what spares `keep_largest` altogether, where it comes with the search.
        sample: of these scores, or of such as lie near them: spares a call of every function.

    Raises:
        ValueError: a layer's scores hold NaN.
    """
    sizes, statistics_of = search(scores, sample, marking=masks is not None)
    assert all(0 <= total <= sum(sizes) for total in kept), (kept, sizes)
    extra = ties == "none"
    ranks = {total: total + extra for total in kept if total + extra > 0 and total < sum(sizes)}
    statistics = statistics_of(list(ranks.values()))
    per_total = []
    for total in kept:
        if total not in ranks:
            budgets = sizes if total else [0] * len(sizes)
        else:
            statistic = statistics[ranks[total]]
            budgets = statistic.above if extra else statistic.budgets(total)
            if threshold_hint is not None:
                threshold_hint |= dict.fromkeys(zip(scores, budgets, strict=True), statistic.score)
            if masks is not None:
                ready = zip(scores, budgets, statistic.masks(budgets), strict=False)
                masks |= {(name, own): mask for name, own, mask in ready if mask is not None}
        per_total.append(dict(zip(scores, budgets, strict=True)))
    return per_total


def keep_largest(
    scores: Tensor, kept: int, *, name: str = "scores", ties: Ties = "first", threshold_hint: float | None = None
) -> Tensor:
    """Mask (same shape, True = kept) of the `kept` largest scores; among equals the lower index wins.

    With `ties="last"` the higher index wins; with "none" fewer may survive: every weight that equals the largest
    removed one goes too. `threshold_hint` is a score to try before the right one is searched for; what is counted
    decides.
    """
    scores = scores.detach().float().contiguous()
    if kept >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    if threshold_hint is not None:
        mask, surplus = _from(scores, kept, threshold_hint, ties)
        if not surplus:
            return mask
    rank = kept + 1 if ties == "none" else max(kept, 1)
    mask, surplus = _from(scores, kept, largest_value(scores, rank, name), ties)
    assert surplus <= 0 if ties == "none" else surplus == 0, (kept, surplus)
    return mask


def keep_largest_of_each(
    scores: Tensor, kept: Sequence[int], *, name: str = "scores", ties: Ties = "first"
) -> list[Tensor]:
    """The masks of `keep_largest` for several numbers of weights, of which the search is one."""
    ready: ReadyMasks = {}
    flat = scores.detach().float().contiguous()
    if flat.device.type == "cpu" and flat.numel() >= LARGE and ties != "last":
        sample = Sample.of([flat.view(-1)[::EVERY]], [flat.numel()], 5.0)
        kept_per_layer({name: lambda: flat}, kept, ties=ties, masks=ready, sample=sample)
    found = [ready.pop((name, own), None) for own in kept]
    return [
        keep_largest(flat, own, name=name, ties=ties) if mask is None else mask.view(flat.shape)
        for own, mask in zip(kept, found, strict=True)
    ]


def keep_from(
    pieces: Iterable[Tensor], shape: torch.Size, kept: Sequence[int], least: Sequence[float]
) -> list[Tensor | None]:
    """Masks of all scores from a least one on, a score for each number of weights; None where it's not so many."""
    masks, seen = [np.empty(shape.numel(), np.bool_) for _ in kept], 0
    for piece in pieces:
        stop = seen + len(piece)
        for mask, threshold in zip(masks, least, strict=True):
            np.greater_equal(piece.numpy(), np.float32(threshold), out=mask[seen:stop])
        seen = stop
    counts = [int(np.count_nonzero(mask)) for mask in masks]
    return [
        torch.from_numpy(m).view(shape) if n == own else None for m, n, own in zip(masks, counts, kept, strict=True)
    ]


def _from(scores: Tensor, kept: int, threshold: float, ties: Ties) -> tuple[Tensor, int]:
    """Mask of what survives from this score on, and how many too many these are."""
    if ties == "none":
        mask = compared(gt, scores, threshold)
        return mask, count(mask) - kept
    mask = compared(ge, scores, threshold)
    surplus = count(mask) - kept
    if surplus > 0:
        equal = torch.nonzero(compared(eq, scores, threshold).view(-1)).view(-1)
        removed = equal[-surplus:] if ties == "first" else equal[:surplus]
        mask.view(-1)[removed] = False
        surplus -= len(removed)
    return mask, surplus


def compared(how: Callable[[Any, Any], Any], one: Tensor, other: Tensor | float) -> Tensor:
    """how(one, other), elementwise; on a processor by numpy, which takes a quarter of the time."""
    if one.device.type != "cpu":
        return how(one, other)
    return torch.from_numpy(how(one.numpy(), other.numpy() if isinstance(other, Tensor) else other))


def count(mask: Tensor) -> int:
    """How many are true."""
    return int(np.count_nonzero(mask.numpy()) if mask.device.type == "cpu" else torch.count_nonzero(mask))


def counts(masks: Sequence[Tensor]) -> list[int]:
    """The same of many; what lies on a device is asked in one go."""
    if all(mask.device.type == "cpu" for mask in masks):
        return [count(mask) for mask in masks]
    return torch.stack([torch.count_nonzero(mask).to(masks[0].device) for mask in masks]).tolist()


def largest_value(scores: Tensor, rank: int, name: str = "scores") -> float:
    """The `rank`-th largest score (1 = the largest). Raises ValueError for NaN."""
    if scores.device.type != "cpu" and scores.numel() <= SMALL:
        keys_of(name, scores.reshape(-1).view(torch.int32))
        return float(scores.reshape(-1).kthvalue(scores.numel() + 1 - rank).values)
    return order_statistic({name: lambda: scores}, rank).score


def keep_largest_per_row(scores: Tensor, kept: int) -> Tensor:
    """Mask (d_out, d_in) with `kept` weights in all, spread evenly over the rows; the first rows take the remainder."""
    rows, columns = scores.shape
    share, longer = divmod(kept, rows)
    parts = [_rows(scores[:longer], min(share + 1, columns)), _rows(scores[longer:], share)]
    return torch.cat(parts)


def keep_largest_per_group(scores: Tensor, kept: int, group: int) -> Tensor:
    """Mask (d_out, d_in) with the `kept` largest of every `group` consecutive scores of a row; d_in is a multiple."""
    return _rows(scores.reshape(-1, group), min(kept, group)).view(scores.shape)


def _rows(scores: Tensor, kept: int) -> Tensor:
    """Mask of the `kept` largest scores of every row; among equals the lower index wins."""
    if not kept or not len(scores):
        return torch.zeros_like(scores, dtype=torch.bool)
    scores = scores.detach() if scores.dtype in (torch.float32, torch.float64) else scores.detach().float()
    threshold = _thresholds_of_rows(scores, kept)
    mask = compared(ge, scores, threshold)
    if count(mask) > kept * len(scores):  # some row has more ties than places
        above, equal = scores > threshold, scores == threshold
        missing = kept - above.sum(1, keepdim=True)
        mask = above | (equal & (equal.cumsum(1) <= missing))
    return mask


def _thresholds_of_rows(scores: Tensor, kept: int) -> Tensor:
    """(d_out, 1) the `kept`-th largest of every row; on a processor by numpy, which takes a third of the time."""
    place = scores.shape[1] - kept
    if scores.device.type != "cpu":
        return scores.kthvalue(place + 1, dim=1, keepdim=True).values
    return torch.from_numpy(np.partition(scores.numpy(), place, axis=1)[:, place : place + 1])
