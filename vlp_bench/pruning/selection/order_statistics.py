"""Order statistics of any layers: a single one's at once, those of many by the sample and count of `many_layers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp_bench.pruning.selection.across_layers import (
    OrderStatistic,
    Sample,
    Thunk,
    chunks_of,
    keys_of,
    locate,
    sample_of,
)

AT_ONCE = 1 << 23  # scores of one layer that a processor puts in order in a copy: 32 MiB


def select(name: str, scores: Tensor, ranks: Sequence[int]) -> dict[int, OrderStatistic]:
    """As `locate`, for one layer on a processor (at most `AT_ONCE` scores): a copy is put in order as far as needed.

    Of the scores that equal one found only those within its rank are counted.
    """
    keys = np.empty(scores.numel(), np.int32)
    used = 0
    for part in chunks_of(scores):
        keys[used : used + len(part)] = keys_of(name, part.view(torch.int32)).numpy()
        used += len(part)
    selected: dict[int, OrderStatistic] = {}
    end = len(keys)  # from here on no key is smaller than any before
    for rank in sorted(ranks):
        at = len(keys) - rank
        keys[:end].partition(at)
        key, end = int(keys[at]), at
        above = int(np.count_nonzero(keys[at:] > key))
        selected[rank] = OrderStatistic(key, [above], [rank - above])
    return selected


def search(
    scores: Mapping[str, Thunk], sample: Sample | None = None, *, marking: bool = False
) -> tuple[list[int], Callable[[Sequence[int]], dict[int, OrderStatistic]]]:
    """The number of scores of each layer, and what finds the `rank`-th largest of all for every rank.

    Without a sample the scores are tensors.
    """
    if sample is not None:
        return sample.sizes, partial(locate, scores, sample=sample, marking=marking)
    wholes: Any = scores
    if len(scores) == 1:
        ((name, score),) = wholes.items()
        layer_scores = score()
        if layer_scores.device.type == "cpu" and layer_scores.numel() <= AT_ONCE:
            return [layer_scores.numel()], partial(select, name, layer_scores)
        wholes = {name: lambda: layer_scores}
    sample = sample_of(wholes)
    return sample.sizes, partial(locate, wholes, sample=sample, marking=marking)


def order_statistic(scores: Mapping[str, Thunk], rank: int) -> OrderStatistic:
    """The `rank`-th largest score of all layers."""
    return search(scores)[1]([rank])[rank]
