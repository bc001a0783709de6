"""LAMP's ranking without its sort: w_u² / Σ_{v ≥ u} w_v² grows with |w| within a layer, so bins of |w| bound it.

A histogram of every layer over the upper halves of |w|'s bits holds counts and sums of squares. From the sums above a
bin follow bounds of every score in it, from the bounds which bins can hold the wanted rank: about one weight in a
hundred. Only those are sorted. Masks and budgets are those of `vlp_bench.pruning.scores.share_of_rest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp_bench.pruning import thresholds
from vlp_bench.pruning.thresholds import Ties

BINS = 1 << 15
ROUNDING = 1e-6, 1e-40  # by how much a score in float32 may miss its bounds: relative, absolute
CHUNK = 1 << 17  # weights looked at in one go on a processor
SIZE = 0x7FFFFFFF  # all bits but the sign
Memory = dict[Any, Any]


@dataclass(frozen=True)
class Bins:
    """The bins of one layer that hold weights, in ascending order; all (bins,).

    Attributes:
        numbers: of the bins: the upper 15 bits of |w| in float32.
        counts: weights inside.
        above: Σ w² over all bins above, float64.
        low, high: bounds of the scores inside, float64.
    """

    numbers: Tensor
    counts: Tensor
    above: Tensor
    low: Tensor
    high: Tensor


def _chunks(w: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Flat weights in float32 and the bits of their |w|, in pieces."""
    flat = w.detach().float().contiguous().view(-1)
    for part in flat.split(CHUNK if w.device.type == "cpu" else 1 << 24):
        yield part, _size_bits(part)


def _size_bits(part: Tensor) -> Tensor:
    if part.device.type != "cpu":
        return part.view(torch.int32) & SIZE
    return torch.from_numpy(part.view(torch.int32).numpy() & np.int32(SIZE))  # twice as fast as the same in torch


def bins_of(name: str, w: Tensor, memory: Memory | None = None) -> Bins:
    """The histogram of one layer's weights (any shape). Raises ValueError for NaN.

    Args:
        memory: where it is looked for first, and kept.
    """
    memory = {} if memory is None else memory
    key = ("rest", name)
    if key not in memory:
        memory[key] = _histogram(name, w)
    return memory[key]


def _histogram(name: str, w: Tensor) -> Bins:
    counts = torch.zeros(BINS, dtype=torch.int64, device=w.device)
    sums = torch.zeros(BINS, dtype=torch.float64, device=w.device)
    for part, bits in _chunks(w):
        where = bits >> 16
        counts += torch.bincount(where, minlength=BINS)
        sums += torch.bincount(where, weights=part.double().square_(), minlength=BINS)
    numbers = counts.nonzero().view(-1)
    counts, sums = counts[numbers], sums[numbers]
    if torch.isnan(sums).any():
        raise ValueError(f"the weights of {name!r} hold NaN: the layer cannot be ranked")
    upto = sums.flip(0).cumsum(0).flip(0)
    above = torch.cat([upto[1:], upto.new_zeros(1)])
    least, most = _edge(numbers << 16), _edge((numbers << 16) + 0xFFFF)
    relative, absolute = ROUNDING
    tiny = torch.finfo(torch.float64).tiny
    low = least.square() / upto.clamp_min(tiny) * (1 - relative) - absolute
    high = most.square() / (above + most.square()).clamp_min(tiny) * (1 + relative) + absolute
    return Bins(numbers, counts, above, low, high)


def _edge(bits: Tensor) -> Tensor:
    return bits.to(torch.int32).view(torch.float32).double().clamp_max(torch.finfo(torch.float32).max)


def _ranked(bounds: Tensor, counts: Tensor, rank: int) -> Tensor:
    """The `rank`-th largest of bounds that stand for `counts` scores each."""
    bounds, order = bounds.sort(descending=True)
    place = torch.searchsorted(counts[order].cumsum(0), rank)
    return bounds[place]


@dataclass(frozen=True)
class Candidates:
    """What the wanted rank may be in one layer.

    Attributes:
        sure: weights above.
        first, last: bins of the candidates.
        above: Σ w² of the weights above.
    """

    sure: int
    first: int
    last: int
    above: float

    def inside(self, bits: Tensor) -> Tensor:
        """Which of |w|'s bits belong to candidates."""
        return (bits >= self.first << 16) ^ self.beyond(bits)

    def beyond(self, bits: Tensor) -> Tensor:
        """Which lie above all candidates."""
        return bits >= (self.last + 1) << 16


def candidates(layers: Mapping[str, Bins], rank: int) -> dict[str, Candidates]:
    """Per layer the bins that may hold the `rank`-th largest score of all."""
    counts = torch.cat([bins.counts for bins in layers.values()])
    least = _ranked(torch.cat([bins.low for bins in layers.values()]), counts, rank)
    most = _ranked(torch.cat([bins.high for bins in layers.values()]), counts, rank)
    return {name: _between(bins, least, most) for name, bins in layers.items()}


def _between(bins: Bins, least: Tensor, most: Tensor) -> Candidates:
    """Bounds grow with the bins, so that candidates lie side by side."""
    first = int(torch.count_nonzero(bins.high < least))
    stop = int(torch.count_nonzero(bins.low <= most))
    sure = int(bins.counts[stop:].sum())
    if first >= stop:  # none: what comes next is sure
        following = int(bins.numbers[stop]) if sure else BINS
        return Candidates(sure, following, following - 1, 0.0)
    return Candidates(sure, int(bins.numbers[first]), int(bins.numbers[stop - 1]), float(bins.above[stop - 1]))


def _scores(w: Tensor, found: Candidates) -> Tensor:
    """The candidates' scores, in the order of their indices, float32; exact sums in float64."""
    inside = [part[found.inside(bits).nonzero().view(-1)] for part, bits in _chunks(w)]
    squares, order = torch.cat([w.new_empty(0, dtype=torch.float32), *inside]).double().square().sort(stable=True)
    rest = (squares.flip(0).cumsum(0) + found.above).flip(0).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.empty_like(squares).scatter_(0, order, squares / rest).float()


def kept_per_layer(
    weights: Mapping[str, Callable[[], Tensor]], kept: int, *, ties: Ties = "first", memory: Memory | None = None
) -> dict[str, int]:
    """How many weights each layer keeps when all compete with LAMP's score for `kept` places.

    Args:
        weights: per layer a function that gives its weights; called twice.
        kept: between 0 and the number of weights.
        ties: as in `thresholds.kept_per_layer`.
        memory: of these weights: spares the histograms the next time.
    """
    layers = {name: bins_of(name, weight(), memory) for name, weight in weights.items()}
    sizes = {name: int(bins.counts.sum()) for name, bins in layers.items()}
    rank = kept if ties == "first" else kept + 1
    if not 0 < rank <= sum(sizes.values()):
        return sizes if kept else dict.fromkeys(sizes, 0)
    found = candidates(layers, rank)
    scores = {name: _scores(weight(), found[name]) for name, weight in weights.items()}
    left = kept - sum(own.sure for own in found.values())
    (budgets,) = thresholds.kept_per_layer({n: lambda n=n: scores[n] for n in scores}, [left], ties=ties)
    return {name: own.sure + budgets[name] for name, own in found.items()}


def keep_largest(
    w: Tensor, kept: int, *, name: str = "weights", ties: Ties = "first", memory: Memory | None = None
) -> Tensor:
    """Mask (same shape, True = kept) of the `kept` weights with the largest scores within one layer."""
    rank = kept if ties == "first" else kept + 1
    if not 0 < rank <= w.numel():
        return torch.full_like(w, kept > 0, dtype=torch.bool)
    (found,) = candidates({name: bins_of(name, w, memory)}, rank).values()
    chosen = thresholds.keep_largest(_scores(w, found), kept - found.sure, name=name, ties=ties)
    mask = torch.empty(w.numel(), dtype=torch.bool, device=w.device)
    pieces = mask.split(CHUNK if w.device.type == "cpu" else 1 << 24)
    used = 0
    for piece, (_, bits) in zip(pieces, _chunks(w), strict=True):
        torch.ge(bits, (found.last + 1) << 16, out=piece)
        inside = found.inside(bits).nonzero().view(-1)
        piece[inside] = chosen[used : used + len(inside)]
        used += len(inside)
    return mask.view(w.shape)
