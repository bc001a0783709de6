"""LAMP's ranking without its sort: w_u² / Σ_{v ≥ u} w_v² grows with |w| within a layer.

A sample of every layer tells between which two sizes |w| the wanted rank lies. One pass then adds up what lies above
and collects what lies between, a few weights in a hundred; only those are sorted and scored, exactly. Where the sample
was misleading a pass with wider limits follows. Masks and budgets are those of `scores.share_of_rest`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp_bench.pruning.selection.many_layers import (
    SMALL,
    Place,
    chunks_of,
    in_ascending_order,
    pick,
    split,
)
from vlp_bench.pruning.selection.order_statistics import place_of
from vlp_bench.pruning.selection.thresholds import Ties
from vlp_bench.pruning.selection.thresholds import keep_largest as keep_largest_scores

Memory = dict[Any, Any]
Limits = tuple[float, float]  # of |w|, both inside
ALL = (0.0, float("inf"))
DEVIATIONS = 4.0  # of what a sample says, to both sides: one layer in 16,000 misses
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Sample:
    """Sizes |w| of one layer, some of them, with the scores they seem to have; both ascending.

    Attributes:
        each: how many weights a size stands for.
    """

    sizes: np.ndarray
    scores: np.ndarray
    each: float

    @property
    def weights(self) -> int:
        """How many the layer has."""
        return round(self.each * len(self.sizes))

    def exceed(self, score: float) -> float:
        """How many weights seem to have larger scores."""
        return self.each * (len(self.scores) - np.searchsorted(self.scores, np.float32(score), side="right"))

    def limits(self, least: float, most: float, deviations: float) -> Limits:
        """Sizes between which scores lie that are as small as `least` and as large as `most`."""
        size = len(self.sizes)
        if self.each <= 1 or deviations > size**0.5:
            return ALL
        error = deviations / max(1, size - np.searchsorted(self.scores, np.float32(most))) ** 0.5
        low = np.searchsorted(self.scores, np.float32(least / (1 + error))) - 2
        high = np.searchsorted(self.scores, np.float32(most * (1 + error))) + 2
        return float(self.sizes[low]) if low >= 0 else ALL[0], float(self.sizes[high]) if high < size else ALL[1]


def sample_of(name: str, w: Tensor, memory: Memory) -> Sample:
    """Of one layer's weights, taken from `memory` if it is there; of few weights all."""
    if (key := ("rest", name)) not in memory:
        some = pick(w) if w.numel() > SMALL else w.detach().float().reshape(-1)
        sizes = in_ascending_order(some.abs().cpu())
        each = w.numel() / max(1, len(sizes))
        memory[key] = Sample(sizes.numpy(), (_scores(sizes) / each).numpy(), each)
    return memory[key]


def _scores(sizes: Tensor, above: float = 0.0) -> Tensor:
    """Float32 scores of ascending sizes; above: Σ w² of what is larger than all of them. Sums in float64."""
    squares = sizes.double().square_()
    rest = squares.flip(0).cumsum(0).flip(0).add_(above).clamp_min_(TINY)
    return squares.div_(rest).float()


@dataclass(frozen=True)
class Counted:
    """One layer: how many weights lie above two limits, and those between.

    Attributes:
        sizes: of the weights between, ascending.
        scores: theirs, float32.
        below: whether there are weights below.
    """

    sure: int
    sizes: Tensor
    scores: Tensor
    below: bool

    def decides(self, score: float) -> bool:
        """Whether that score certainly lies between the limits' scores, so that what is above exceeds it."""
        reach = len(self.scores) > 0
        return (not self.sure or (reach and float(self.scores[-1]) > score)) and (
            not self.below or (reach and float(self.scores[0]) < score)
        )

    def edge(self, rank: int) -> Edge:
        """The weights that share the `rank`-th largest score, and those of their size."""
        sizes, at = self.sizes, len(self.sizes) - (rank - self.sure)
        first, last = (torch.searchsorted(self.scores, self.scores[at], right=right) for right in (False, True))
        low, high = sizes[first], sizes[last - 1]
        first, last = int(torch.searchsorted(sizes, low)), int(torch.searchsorted(sizes, high, right=True))
        return Edge(float(low), float(high), self.sure + len(sizes) - last, self.scores[first:last].clone())


@dataclass(frozen=True)
class Edge:
    """Sizes of one layer between which the last weight kept is found.

    Attributes:
        above: how many weights are larger.
        scores: of those inside, float32, ascending.
    """

    low: float
    high: float
    above: int
    scores: Tensor

    def mask(self, w: Tensor, kept: int, ties: Ties) -> Tensor:
        """True for what is kept; of equal weights the earlier has the smaller score."""
        mask = torch.empty(w.numel(), dtype=torch.bool, device=w.device)
        used = 0
        for part in chunks_of(w):
            torch.ge(_sizes(part), self.low, out=mask[used : used + len(part)])
            used += len(part)
        if kept < self.above + len(self.scores):
            inside = (mask & (w.reshape(-1).abs() <= self.high)).nonzero().view(-1)
            order = w.reshape(-1)[inside].abs().argsort(stable=True)
            scores = torch.empty_like(self.scores).index_copy_(0, order, self.scores)
            mask[inside] = keep_largest_scores(scores, kept - self.above, ties=ties)
        return mask.view(w.shape)


def _count(name: str, w: Tensor, limits: Limits) -> Counted:
    """What lies above and between the limits. Raises ValueError for NaN."""
    sure, inside, squares = 0, [], 0.0
    low, high = (torch.tensor(limit, dtype=torch.float32).view(torch.int32).item() for limit in limits)
    for part in chunks_of(w):
        sizes = _sizes(part)
        if sizes.numel() and torch.isnan(sizes.max()):
            raise ValueError(f"the weights of {name!r} hold NaN: the layer cannot be ranked")
        over, between = split(sizes.view(torch.int32), low, high)
        sure += over
        inside.append(between)
        if over:
            squares += _squares_above(sizes, limits[1])
    sizes = in_ascending_order(torch.cat(inside).view(torch.float32))
    return Counted(sure, sizes, _scores(sizes, squares), sure + len(sizes) < w.numel())


def _sizes(part: Tensor) -> Tensor:
    return torch.from_numpy(np.abs(part.numpy())) if part.device.type == "cpu" else part.abs()


def _squares_above(sizes: Tensor, limit: float) -> float:
    """Σ w² over what exceeds the limit, in float64."""
    if sizes.device.type != "cpu":
        own = sizes * (sizes > limit)
        return float(own.double().square_().sum())
    numbers: Any = sizes.numpy()  # numpy compares and multiplies faster
    own = np.multiply(numbers, numbers > np.float32(limit)).astype(np.float64)
    return float(own @ own)


def kept_per_layer(
    weights: Mapping[str, Callable[[], Tensor]], kept: int, *, ties: Ties = "first", memory: Memory | None = None
) -> dict[str, int]:
    """How many weights each layer keeps when all compete with LAMP's score for `kept` places.

    Args:
        weights: per layer a function that gives its weights; called twice, rarely more often.
        kept: between 0 and the number of weights.
        ties: as in `thresholds.kept_per_layer`.
        memory: of these weights: spares the samples the next time, and `keep_largest` most of its work.
    """
    memory = {} if memory is None else memory
    sizes = {name: sample_of(name, weight(), memory).weights for name, weight in weights.items()}
    rank = kept if ties == "first" else kept + 1
    if not 0 < rank <= sum(sizes.values()):
        return sizes if kept else dict.fromkeys(sizes, 0)
    layers, place = _find(weights, rank, memory)
    sure = sum(layer.sure for layer in layers.values())
    shares = place.budgets(kept - sure) if ties == "first" else place.above
    found = {name: layer.sure + share for (name, layer), share in zip(layers.items(), shares, strict=True)}
    for name, layer in layers.items():
        own = found[name] + rank - kept
        if 0 < own <= sizes[name]:
            memory["rest", name, own] = layer.edge(own)
    return found


def _find(weights: Mapping[str, Callable[[], Tensor]], rank: int, memory: Memory) -> tuple[dict[str, Counted], Place]:
    """The layers within limits that hold the `rank`-th largest score of all, and its place among what is there."""
    samples = {name: sample_of(name, weight(), memory) for name, weight in weights.items()}
    deviations = DEVIATIONS
    while True:
        least, most = _between(list(samples.values()), rank, deviations)
        layers = {n: _count(n, weight(), samples[n].limits(least, most, deviations)) for n, weight in weights.items()}
        left = rank - sum(layer.sure for layer in layers.values())
        if 0 < left <= sum(len(layer.scores) for layer in layers.values()):
            place = place_of({n: lambda x=layer: x.scores for n, layer in layers.items()}, left)
            if all(layer.decides(float(place.score)) for layer in layers.values()):
                return layers, place
        deviations *= 8


def _between(samples: list[Sample], rank: int, deviations: float) -> tuple[float, float]:
    """Scores between which the wanted one seems to lie."""
    size, share = sum(len(sample.sizes) for sample in samples), rank / sum(sample.weights for sample in samples)
    spread = deviations * max(sample.each for sample in samples) * (size * share * max(0.0, 1 - share)) ** 0.5
    return _score_at(samples, rank + spread), _score_at(samples, rank - spread)


def _score_at(samples: list[Sample], rank: float) -> float:
    """The smallest score, to a millionth, that seems to be exceeded by fewer than `rank` weights."""
    low, high = 0.0, 1.0
    while high > low * (1 + 1e-6) and high > TINY:
        middle = (low * high) ** 0.5 if low else high / 16
        fewer = sum(sample.exceed(middle) for sample in samples) < rank
        low, high = (low, middle) if fewer else (middle, high)
    return high


def keep_largest(
    w: Tensor, kept: int, *, name: str = "weights", ties: Ties = "first", memory: Memory | None = None
) -> Tensor:
    """Mask (same shape, True = kept) of the `kept` weights with the largest scores within one layer."""
    memory = {} if memory is None else memory
    rank = kept if ties == "first" else kept + 1
    if not 0 < rank <= w.numel():
        return torch.full_like(w, kept > 0, dtype=torch.bool)
    if (key := ("rest", name, rank)) not in memory:
        memory[key] = _find({name: lambda: w}, rank, memory)[0][name].edge(rank)
    return memory[key].mask(w, kept, ties)
