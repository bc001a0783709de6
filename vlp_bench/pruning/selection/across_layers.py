"""Exact order statistics over the scores of many layers, without ever laying them side by side.

Float32 numbers sort like integers made of their bits, their keys. A sample tells between which two keys a wanted rank
lies; one pass over the scores then counts what lies above and collects what lies between, for each layer and each rank:
about one score in a thousand. If the sample was misleading a pass with wider limits follows: what is counted decides,
never what was sampled. Exact, ties included; scores are asked for one layer at a time, a 40th of them is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Limits = tuple[int, int]  # keys


class Countable(Protocol):
    """Scores of a layer that know how to count themselves."""

    def counted(self, limits: Sequence[Limits]) -> list[Counted]:
        """What lies above and between each pair of limits."""
        ...


Scores = Tensor | Iterable[Tensor] | Countable  # of a layer: as a whole, or flat in float32 and piece by piece
Thunk = Callable[[], Scores]
LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1  # keys
INFINITY = 0x7F800000  # its key; that of -infinity is its complement
RUN, STRIDE = 16, 41  # the sample: a cache line's worth out of every 41
DEVIATIONS = 3.0  # of the sample's rank, to both sides: once in 400 the limits miss
SMALL = 1 << 15  # so few scores are ranked at once
CHUNK = {"cpu": 1 << 17}  # scores looked at in one go: what a processor's cache holds; elsewhere bounds the temporaries


def chunks_of(numbers: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """Numbers of any shape in float32, flat, in pieces; what comes in pieces stays as it is."""
    if not isinstance(numbers, Tensor):
        return iter(numbers)
    flat = numbers.detach().float().contiguous().view(-1)
    return iter(flat.split(CHUNK.get(flat.device.type, 1 << 25)))


def keys_of(name: str, bits: Tensor) -> Tensor:
    """int32 bits of float32 numbers -> integers that sort as the numbers do. Raises ValueError for NaN."""
    own: Any = bits
    if bits.device.type == "cpu":
        own = bits.numpy()  # several times as fast as torch
        if own.view(np.uint32).max(initial=0) <= INFINITY:
            return bits  # none is negative, none is NaN
    keys = _in_order(own)
    keys += keys == -1  # -0.0 is as large as 0.0
    keys = torch.as_tensor(keys)
    lowest, highest = torch.stack(keys.aminmax()).tolist() if keys.numel() else (0, 0)
    if highest > INFINITY or lowest < ~INFINITY:
        raise ValueError(f"the scores of {name!r} hold NaN: the layer cannot be ranked")
    return keys


def _in_order(bits: Any) -> Any:
    """Flips the order of negative numbers, whose bits grow downwards; its own inverse."""
    keys = bits >> 31
    keys &= 0x7FFFFFFF
    keys ^= bits
    return keys


@dataclass(frozen=True)
class Sample:
    """Sorted keys of one score in 41, and how many scores each layer has.

    Attributes:
        deviations: of a rank in the sample, to both sides of it: what lies between is looked at.
    """

    keys: Tensor
    sizes: list[int]
    deviations: float = DEVIATIONS

    @classmethod
    def of(cls, picked: Sequence[Tensor], sizes: list[int], deviations: float = DEVIATIONS) -> Sample:
        """From the float32 numbers picked out of each layer."""
        bits = torch.cat(list(picked)).view(torch.int32)
        negative = len(bits) and int(bits.min()) < 0
        return cls(in_ascending_order(_in_order(bits) if negative else bits), sizes, deviations)

    @property
    def total(self) -> int:
        """How many scores there are."""
        return sum(self.sizes)

    def limits(self, rank: int, deviations: float) -> tuple[int, int]:
        """Two keys between which the `rank`-th largest score (1 = the largest) most likely lies."""
        share = (rank - 0.5) / self.total
        size = len(self.keys)
        spread = deviations * (size * share * (1 - share)) ** 0.5 + 2
        low, high = int(size * (1 - share) - spread), int(size * (1 - share) + spread)
        return int(self.keys[low]) if low >= 0 else LOWEST, int(self.keys[high]) if high < size else HIGHEST


def sample_of(scores: Mapping[str, Callable[[], Tensor]]) -> Sample:
    """Every layer's scores are computed for it, one after the other."""
    picked, sizes = [], []
    for score in scores.values():
        layer_scores = score()
        sizes.append(layer_scores.numel())
        picked.append(pick(layer_scores))
    return Sample.of(picked, sizes)


def pick(numbers: Tensor) -> Tensor:
    """One number in 41, float32."""
    flat = numbers.detach().reshape(-1)
    return (flat.unfold(0, RUN, RUN * STRIDE) if len(flat) >= RUN else flat).float().contiguous().view(-1)


def in_ascending_order(numbers: Tensor) -> Tensor:
    """Sorts in place; on a processor by numpy, which is six times as fast as torch."""
    if numbers.device.type != "cpu":
        return numbers.sort().values
    numbers.numpy().sort()
    return numbers


@dataclass
class Marked:
    """The mask of a layer's scores above two limits, and where those between them are.

    Attributes:
        mask: (n,) bool.
        places: of those between, ascending.
        keys: theirs.
    """

    mask: np.ndarray
    places: np.ndarray
    keys: np.ndarray

    def finished(self, key: int, equal: int) -> Tensor:
        """The mask of all above a key between the limits, and of the first `equal` that have it."""
        self.mask[self.places[self.keys > key]] = True
        self.mask[self.places[self.keys == key][:equal]] = True
        return torch.from_numpy(self.mask)


@dataclass
class Counted:
    """One layer: how many keys lie above two limits, and those between.

    Attributes:
        ends: how many of them were only counted, for they equal the lower, or the upper limit.
        keys: all others, ascending.
        marked: where they are, if that was asked for and none was only counted.
    """

    limits: Limits
    above: int
    ends: tuple[int, int]
    keys: np.ndarray
    marked: Marked | None = None

    def exceed(self, key: int) -> int:
        """How many scores lie above a key within the limits."""
        inside = len(self.keys) - int(np.searchsorted(self.keys, np.int32(key), side="right"))
        return self.above + inside + sum(times for times, end in zip(self.ends, self.limits, strict=True) if end > key)

    def equal(self, key: int) -> int:
        """How many scores have that key."""
        first, last = (int(np.searchsorted(self.keys, np.int32(key), side=side)) for side in ("left", "right"))
        return last - first + sum(times for times, end in zip(self.ends, self.limits, strict=True) if end == key)


class Counter:
    """Goes through one layer's keys and becomes what lies above and between two limits."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.above: int | Tensor = 0
        self.lowest: int | Tensor = 0
        self.highest: int | Tensor = 0
        self.inside: list[Tensor] = []

    def add(self, keys: Tensor) -> None:
        """The next keys."""
        above = keys > self.high
        self.above = torch.count_nonzero(above) + self.above
        self.add_between(keys[(keys >= self.low) ^ above], len(keys))

    def add_between(self, between: Tensor, size: int) -> None:
        """Those of the next `size` that lie between. Many are most likely ties, which need no sorting."""
        if len(between) > size >> 3:
            lowest, highest = between == self.low, between == self.high
            self.lowest = torch.count_nonzero(lowest) + self.lowest
            self.highest = torch.count_nonzero(highest) + self.highest if self.high > self.low else 0
            between = between[~(lowest | highest)]
        self.inside.append(between)

    def counted(self) -> Counted:
        """What was found."""
        keys = in_ascending_order(torch.cat(self.inside))
        counts = [torch.as_tensor(number).to(keys.device) for number in (self.above, self.lowest, self.highest)]
        fetched = torch.cat([keys, torch.stack(counts)]).cpu()  # at once
        above, lowest, highest = fetched[len(keys) :].tolist()
        return Counted((self.low, self.high), above, (lowest, highest), fetched[: len(keys)].int().numpy())


class Counters:
    """The same on a processor, for several pairs of limits in one go: the few keys between any are told apart last.

    Given how many keys there will be, it remembers where they lie, unless there are many ties.
    """

    def __init__(self, limits: Sequence[Limits], size: int) -> None:
        self.counters = [Counter(*pair) for pair in limits]
        self.masks = [np.empty(size, np.bool_) for _ in limits]
        self.between, self.places, self.seen = [np.empty(0, np.int32)], [np.empty(0, np.intp)], 0

    def add(self, keys: Tensor) -> None:
        """The next keys."""
        numbers, inside = keys.numpy(), np.zeros(len(keys), np.bool_)
        for counter, mask in zip(self.counters, self.masks, strict=True):
            marked = mask[self.seen : self.seen + len(keys)]
            above = np.greater(numbers, counter.high, out=marked if len(marked) == len(keys) else None)
            counter.above += int(np.count_nonzero(above))
            inside |= (numbers >= counter.low) ^ above
        (places,) = inside.nonzero()
        between = numbers.take(places)
        if len(places) > len(keys) >> 3:
            apart = [_between(between, counter.low, counter.high) for counter in self.counters]
            if max(map(len, apart)) > len(keys) >> 3:
                for counter, own in zip(self.counters, apart, strict=True):
                    counter.add_between(torch.from_numpy(between[own]), len(keys))
                return
        self.between.append(between)
        self.places.append(places + self.seen)
        self.seen += len(keys)

    def counted(self) -> list[Counted]:
        """What was found, for each pair of limits."""
        keys, places = np.concatenate(self.between), np.concatenate(self.places)
        found = []
        for counter, mask in zip(self.counters, self.masks, strict=True):
            own = _between(keys, counter.low, counter.high)
            marked = Marked(mask, places[own], keys[own]) if self.seen == len(mask) else None
            counter.inside.append(torch.from_numpy(keys[own]))
            found.append(replace(counter.counted(), marked=marked))
        return found


def _between(keys: np.ndarray, low: int, high: int) -> np.ndarray:
    """Where keys are from `low` to `high`."""
    return np.flatnonzero((keys >= low) & (keys <= high))


def _count(name: str, scores: Scores, limits: Sequence[Limits], size: int) -> list[Counted]:
    """What lies above and between each pair of limits; of a `size` above zero, on a processor, where it lies, too."""
    if not isinstance(scores, Tensor | Iterable):
        return scores.counted(limits)
    together: Counters | None = None
    apart = [Counter(*pair) for pair in limits]
    for part in chunks_of(scores):
        keys = keys_of(name, part.view(torch.int32))
        if keys.device.type == "cpu":
            together = together or Counters(limits, size)
            together.add(keys)
        else:
            for counter in apart:
                counter.add(keys)
    return together.counted() if together else [counter.counted() for counter in apart]


@dataclass(frozen=True)
class OrderStatistic:
    """The score of a wanted rank: its key, and per layer how many scores exceed and equal it, and what was marked."""

    key: int
    above: list[int]
    equal: list[int]
    marked: Sequence[Marked | None] = ()

    @property
    def score(self) -> float:
        """The score itself, a float32 number."""
        return float(_in_order(np.array([self.key], np.int32)).view(np.float32)[0])

    def budgets(self, kept: int) -> list[int]:
        """Per layer what it keeps; they add up to `kept`: the ties at the threshold go to the first layers."""
        left = kept - sum(self.above)
        budgets = []
        for own, ties in zip(self.above, self.equal, strict=True):
            extra = min(left, ties)
            budgets.append(own + extra)
            left -= extra
        assert left == 0, "the threshold holds fewer ties than are to be shared"
        return budgets

    def masks(self, budgets: Sequence[int]) -> Iterator[Tensor | None]:
        """(n,) per layer its largest, of equals the first; None where not all is marked. To be asked for once."""
        for marked, above, kept in zip(self.marked, self.above, budgets, strict=False):
            yield None if marked is None else marked.finished(self.key, kept - above)


def locate(
    scores: Mapping[str, Thunk], ranks: Sequence[int], sample: Sample, *, marking: bool = False
) -> dict[int, OrderStatistic]:
    """The `rank`-th largest score of all layers (1 = the largest) for every rank, from one pass."""
    deviations = sample.deviations
    wanted = {rank: sample.limits(rank, deviations) for rank in ranks}
    located: dict[int, OrderStatistic] = {}
    sizes = sample.sizes if marking else [0] * len(sample.sizes)
    while wanted:
        limits = list(wanted.values())
        layers = [
            _count(name, score(), limits, size) for (name, score), size in zip(scores.items(), sizes, strict=True)
        ]
        for rank, *counted in zip(list(wanted), *layers, strict=True):
            if (statistic := _ranked(counted, rank)) is not None:
                located[rank] = statistic
        deviations *= 8
        wanted = {rank: sample.limits(rank, deviations) for rank in wanted if rank not in located}
    return located


def _ranked(layers: list[Counted], rank: int) -> OrderStatistic | None:
    """None: the rank doesn't lie between the limits."""
    (low, high), (lowest, highest) = layers[0].limits, np.sum([layer.ends for layer in layers], axis=0).tolist()
    keys = layers[0].keys
    if len(layers) > 1:
        keys = np.concatenate([layer.keys for layer in layers])
        keys.sort()
    left = rank - sum(layer.above for layer in layers)
    if not 0 < left <= lowest + highest + len(keys):
        return None
    left -= highest
    key = high if left <= 0 else int(keys[-left]) if left <= len(keys) else low
    above, equal = [layer.exceed(key) for layer in layers], [layer.equal(key) for layer in layers]
    return OrderStatistic(key, above, equal, [layer.marked for layer in layers])
