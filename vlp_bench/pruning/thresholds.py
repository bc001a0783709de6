"""Exact order statistics over the scores of many layers, without ever laying them side by side.

Float32 numbers sort like integers made of their bits. A sample tells between which two integers the wanted rank lies; a
pass over the scores then counts what lies above and makes a histogram of what lies between, one for each layer. If the
sample was misleading or its bracket too wide for one bin per integer, another pass follows: what is counted decides,
never what was sampled. Exact, ties included; scores are asked for one layer at a time, a 40th of them is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Thunk = Callable[[], Tensor]
Ties = Literal["first", "none"]
BINS = 1 << 16
LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1  # keys
INFINITY = 0x7F800000  # its key; that of -infinity is its complement
RUN, STRIDE = 16, 41  # the sample: a cache line's worth out of every 41
DEVIATIONS = 4  # of the sample's rank, to both sides: once in 16,000 the bracket misses
SMALL = 1 << 15  # so few scores are ranked at once
CHUNK = {"cpu": 1 << 16}  # scores looked at in one go: what a processor's cache holds; elsewhere bounds the temporaries
CHUNKS = 32  # whose contents wait for a histogram together


def keys_of(name: str, scores: Tensor) -> Iterator[Tensor]:
    """Float scores of any shape as int32 numbers that sort as they do, flat, in chunks. Raises ValueError for NaN."""
    bits = scores.detach().float().contiguous().view(-1).view(torch.int32)
    for part in bits.split(CHUNK.get(bits.device.type, 1 << 25)):
        yield _checked(name, part)


def _checked(name: str, bits: Tensor) -> Tensor:
    """Keys from bits; NaNs sort above infinity, or below its negative."""
    known = bits.numpy() if bits.device.type == "cpu" else bits
    signed = bits.numel() > 0 and bool(known.min() < 0)
    keys = _in_order(bits) if signed else bits
    if (bits.numel() and known.max() > INFINITY) or (signed and keys.min() < ~INFINITY):
        raise ValueError(f"the scores of {name!r} hold NaN: the layer cannot be ranked")
    return keys


def _in_order(bits: Tensor) -> Tensor:
    """Flips the order of negative numbers, whose bits grow downwards; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@dataclass(frozen=True)
class Sample:
    """Sorted keys of one score in 41, and how many scores there are."""

    keys: Tensor
    total: int

    def bracket(self, rank: int) -> tuple[int, int]:
        """Two keys between which the `rank`-th largest score (1 = the largest) most likely lies."""
        share = (rank - 0.5) / self.total
        size = len(self.keys)
        spread = DEVIATIONS * (size * share * (1 - share)) ** 0.5 + 2
        low, high = int(size * (1 - share) - spread), int(size * (1 - share) + spread)
        return int(self.keys[low]) if low >= 0 else LOWEST, int(self.keys[high]) if high < size else HIGHEST


def sample_of(scores: Mapping[str, Thunk]) -> tuple[Sample, list[int]]:
    """The sample, and the number of scores of each layer."""
    picked, sizes = [], []
    for score in scores.values():
        found = score()
        sizes.append(found.numel())
        flat = found.detach().reshape(-1)
        some = flat.unfold(0, RUN, RUN * STRIDE) if len(flat) >= RUN else flat
        picked.append(_in_order(some.float().contiguous().view(-1).view(torch.int32)))
    return Sample(_sorted(torch.cat(picked)), sum(sizes)), sizes


def _sorted(keys: Tensor) -> Tensor:
    """In place; on a processor by numpy, which sorts integers six times as fast as torch."""
    if keys.device.type != "cpu":
        return keys.sort().values
    keys.numpy().sort()
    return keys


def _count(name: str, scores: Tensor, low: int, shift: int, counts: Tensor) -> int:
    """How many keys lie above the 65536·2^shift keys from `low`, whose histogram `counts` (65536,) becomes."""
    high = low + (BINS << shift) - 1
    above, waiting = 0, []
    counts.zero_()
    for keys in keys_of(name, scores):
        over, inside = _inside(keys, low, high)
        above += over
        waiting.append(inside)
        if len(waiting) == CHUNKS:
            _add_bins(counts, waiting, low, shift)
    _add_bins(counts, waiting, low, shift)
    return above


def _add_bins(counts: Tensor, waiting: list[Tensor], low: int, shift: int) -> None:
    """Empties a list of keys into the histogram."""
    if waiting:
        bins = (torch.cat(waiting).long() - low) >> shift
        counts += torch.bincount(bins, minlength=BINS).to(counts)
        waiting.clear()


def _inside(keys: Tensor, low: int, high: int) -> tuple[int, Tensor]:
    """How many keys lie above `high`, and the distances to `low` of those between."""
    on_processor = keys.device.type == "cpu"
    numbers: Any = keys.numpy() if on_processor else keys  # three times as fast as the same in torch
    above, between = numbers > high, numbers >= low
    many = int(np.count_nonzero(above) if on_processor else torch.count_nonzero(above))
    between ^= above
    return many, torch.as_tensor(numbers[between])


def _descend(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the `rank`-th largest entry (1 = the largest), and how many entries lie in bins above it."""
    at_or_above = counts.flip(0).cumsum(0)
    steps = int(torch.searchsorted(at_or_above, rank))
    return len(counts) - 1 - steps, int(at_or_above[steps - 1]) if steps else 0


@dataclass(frozen=True)
class Place:
    """Where the wanted rank lies: the key of its score, and per layer how many scores exceed and equal it."""

    key: int
    above: list[int]
    equal: list[int]


def locate(scores: Mapping[str, Thunk], rank: int, sample: Sample) -> Place:
    """The `rank`-th largest score of all layers (1 = the largest)."""
    counts = torch.zeros(len(scores), BINS, dtype=torch.int32)  # in one piece, and small survivors pin nothing down
    low, high = sample.bracket(rank)
    while True:
        shift = max(0, (high - low).bit_length() - 16)
        low = min(low, HIGHEST + 1 - (BINS << shift))
        above = [
            _count(name, score(), low, shift, row) for row, (name, score) in zip(counts, scores.items(), strict=True)
        ]
        total = sum(counts, torch.zeros(BINS, dtype=torch.int64))  # by rows, as torch widens all it adds up
        if sum(above) >= rank:
            low, high = low + (BINS << shift), HIGHEST
        elif sum(above) + int(total.sum()) < rank:
            low, high = LOWEST, low - 1
        else:
            bin_, _ = _descend(total, rank - sum(above))
            if not shift:
                inside = (int(row[bin_ + 1 :].sum()) for row in counts)
                both = [a + b for a, b in zip(above, inside, strict=True)]
                return Place(low + bin_, both, counts[:, bin_].tolist())
            low, high = low + (bin_ << shift), low + ((bin_ + 1) << shift) - 1


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
            more for every total, rarely twice.
        kept: the totals; each between 0 and the number of scores.
        ties: "first": exactly `kept` survive, equal scores in order of layer, then of index. "none": the released
            MULTIFLOW code's rule, where only what exceeds the largest *removed* score survives: all ties go.

    Raises:
        ValueError: a layer's scores hold NaN.
    """
    sample, sizes = sample_of(scores)
    find = partial(_budgets, scores, sample, sizes, ties=ties)
    return [dict(zip(scores, find(total), strict=True)) for total in kept]


def _budgets(scores: Mapping[str, Thunk], sample: Sample, sizes: list[int], kept: int, ties: Ties) -> list[int]:
    assert 0 <= kept <= sum(sizes), (kept, sizes)
    if kept == sum(sizes):
        return sizes
    if ties == "none":
        return locate(scores, kept + 1, sample).above
    if not kept:
        return [0] * len(sizes)
    place = locate(scores, kept, sample)
    return _share_ties(place.above, place.equal, kept)


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
        _checked(name, scores.reshape(-1).view(torch.int32))
        return scores.reshape(-1).kthvalue(scores.numel() + 1 - rank).values
    layer = {name: lambda: scores}
    key = torch.tensor([locate(layer, rank, sample_of(layer)[0]).key], dtype=torch.int32, device=scores.device)
    return _in_order(key).view(torch.float32)[0]


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
