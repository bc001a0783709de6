"""Exact order statistics over the scores of many layers, without ever laying them side by side.

Float32 numbers sort like integers made of their bits. A histogram of the upper 16 bits, one per layer, finds the bin
of the wanted rank; a histogram of the lower 16 bits inside that bin finds the value. Exact, ties included; scores are
asked for twice, one layer at a time; at most 512 KiB per layer are kept of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Thunk = Callable[[], Tensor]
Ties = Literal["first", "none"]
BINS = 1 << 16
ZERO = BINS // 2  # the bin of the smallest numbers that aren't negative
CHUNK = {"cpu": 1 << 18}  # scores looked at in one go: what a processor's cache holds; elsewhere bounds the temporaries


def _bits(scores: Tensor) -> Tensor:
    """The bits of float scores of any shape, flat, as int32: they sort as the scores do while none is negative."""
    return scores.detach().float().contiguous().view(-1).view(torch.int32)


def _in_order(bits: Tensor) -> Tensor:
    """Flips the order of negative numbers, whose bits grow downwards; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _chunks(keys: Tensor) -> tuple[Tensor, ...]:
    return keys.split(CHUNK.get(keys.device.type, 1 << 25))


def _upper(scores: Tensor) -> Tensor:
    """Histogram (65536,) of the upper halves of the scores' keys; bin `ZERO` opens at zero."""
    bits = _bits(scores)
    counts = torch.zeros(BINS, dtype=torch.int64, device=bits.device)
    signed = bits.numel() > 0 and bool(bits.min() < 0)
    for part in _chunks(bits):
        found = torch.bincount((_in_order(part) >> 16) + ZERO if signed else part >> 16)
        counts[0 if signed else ZERO :][: len(found)] += found
    return counts


def _lower(scores: Tensor, bin_: int) -> Tensor:
    """Histogram (65536,) of the lower halves of the keys whose upper half falls in bin `bin_`."""
    bits = _bits(scores)
    counts = torch.zeros(BINS, dtype=torch.int64, device=bits.device)
    for part in _chunks(bits):
        inside = _inside(part if bin_ >= ZERO else _in_order(part), (bin_ - ZERO) * BINS)
        if inside.numel():
            counts += torch.bincount(inside, minlength=BINS)
    return counts


def _inside(keys: Tensor, first: int) -> Tensor:
    """Those of the keys `first` to `first` + 65535, less `first`."""
    if keys.device.type != "cpu":
        return keys[(keys >> 16) == first >> 16] - first
    offsets = keys.numpy() - np.int32(first)  # three times as fast as the same in torch
    return torch.from_numpy(offsets[offsets.view(np.uint32) < BINS])


def _refuse_nan(name: str, upper: Tensor) -> None:
    """NaNs sort above infinity (or below its negative): the outermost bins."""
    edge = ZERO + 0x7F80  # the bin that +infinity opens
    if upper[edge + 1 :].sum() or upper[: BINS - edge - 1].sum():
        raise ValueError(f"the scores of {name!r} hold NaN: the layer cannot be ranked")


def _descend(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the `rank`-th largest entry (1 = the largest), and how many entries lie in bins above it."""
    at_or_above = counts.flip(0).cumsum(0)
    steps = int(torch.searchsorted(at_or_above, rank))
    return len(counts) - 1 - steps, int(at_or_above[steps - 1]) if steps else 0


def _histograms(layers: int) -> Tensor:
    """(layers, 65536) int32 in one piece, so that small survivors don't pin down the memory of large temporaries."""
    return torch.zeros(layers, BINS, dtype=torch.int32)


def _sums(counts: Tensor) -> list[int]:
    """The sum of every row; by rows, as torch widens all it adds up."""
    return [int(row.sum()) for row in counts]


def _total(counts: Tensor) -> Tensor:
    """(65536,) int64 sum over the layers."""
    summed = torch.zeros(BINS, dtype=torch.int64)
    for row in counts:
        summed += row
    return summed


def _above_and_equal(scores: Mapping[str, Thunk], rank: int, upper: Tensor) -> tuple[list[int], list[int]]:
    """Per layer: how many scores exceed the `rank`-th largest of all, and how many equal it."""
    bin_, passed = _descend(_total(upper), rank)
    lower = _histograms(len(upper))
    for row, score in enumerate(scores.values()):
        if upper[row, bin_]:
            lower[row] = _lower(score(), bin_)
    value, _ = _descend(_total(lower), rank - passed)
    pairs = zip(_sums(upper[:, bin_ + 1 :]), _sums(lower[:, value + 1 :]), strict=True)
    return [coarse + fine for coarse, fine in pairs], lower[:, value].tolist()


def _share_ties(above: list[int], equal: list[int], kept: int) -> list[int]:
    """Budgets that add up to `kept`: the ties at the threshold go to the first layers."""
    left = kept - sum(above)
    budgets = []
    for own, ties in zip(above, equal, strict=True):
        extra = min(left, ties)
        budgets.append(own + extra)
        left -= extra
    assert left == 0, "the threshold holds fewer ties than are to be shared"
    return budgets


def kept_per_layer(scores: Mapping[str, Thunk], kept: Sequence[int], *, ties: Ties = "first") -> list[dict[str, int]]:
    """How many weights each layer keeps when the layers compete for `kept` places, for several totals at once.

    Args:
        scores: per layer a function that computes its float scores (any shape); larger survives. Called once, and once
            more for every total.
        kept: the totals; each between 0 and the number of scores.
        ties: "first": exactly `kept` survive, equal scores in order of layer, then of index. "none": the released
            MULTIFLOW code's rule, where only what exceeds the largest *removed* score survives: all ties go.

    Raises:
        ValueError: a layer's scores hold NaN.
    """
    upper = _histograms(len(scores))
    for row, (name, score) in enumerate(scores.items()):
        counts = _upper(score())
        _refuse_nan(name, counts)
        upper[row] = counts
    return [dict(zip(scores, _budgets(scores, upper, k, ties), strict=True)) for k in kept]


def _budgets(scores: Mapping[str, Thunk], upper: Tensor, kept: int, ties: Ties) -> list[int]:
    sizes = _sums(upper)
    assert 0 <= kept <= sum(sizes), (kept, sizes)
    if kept == sum(sizes):
        return sizes
    if ties == "none":
        return _above_and_equal(scores, kept + 1, upper)[0]
    return _share_ties(*_above_and_equal(scores, kept, upper), kept) if kept else [0] * len(sizes)


def keep_largest(scores: Tensor, kept: int, *, name: str = "scores", ties: Ties = "first") -> Tensor:
    """Mask (same shape, True = kept) of the `kept` largest scores; among equals the lower index wins.

    With `ties="none"` fewer may survive: every weight that equals the largest removed one goes too.
    """
    scores = scores.detach().float()
    if kept >= scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    rank = max(kept, 1) if ties == "first" else kept + 1
    threshold = _rank_value(scores, rank, name)
    mask = scores > threshold
    if ties == "first" and kept:
        missing = kept - int(torch.count_nonzero(mask))
        mask.view(-1)[torch.nonzero((scores == threshold).view(-1)).view(-1)[:missing]] = True
    return mask if kept else torch.zeros_like(mask)


def _rank_value(scores: Tensor, rank: int, name: str) -> Tensor:
    """The `rank`-th largest score (1 = the largest), as a scalar tensor."""
    upper = _upper(scores)
    _refuse_nan(name, upper)
    bin_, passed = _descend(upper, rank)
    low, _ = _descend(_lower(scores, bin_), rank - passed)
    key = torch.tensor([(bin_ - ZERO) * BINS + low], dtype=torch.int32, device=scores.device)
    return _in_order(key).view(torch.float32)[0]


def keep_largest_per_row(scores: Tensor, kept: int) -> Tensor:
    """Mask (d_out, d_in) with `kept` weights in all, spread evenly over the rows; the first rows take the remainder."""
    rows, columns = scores.shape
    per_row = torch.full((rows, 1), kept // rows, device=scores.device)
    per_row[: kept % rows] += 1
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    keep = (torch.arange(columns, device=scores.device) < per_row).expand(rows, columns)
    return torch.zeros(rows, columns, dtype=torch.bool, device=scores.device).scatter(1, order, keep)
