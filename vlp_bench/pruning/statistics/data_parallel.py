"""Calibration by several processes: each looks at some of the batches, all add up everything in the batches' order.

What a batch gives is the same wherever it is computed, and sums are made in one order by all; so the statistics, and
the masks made of them, have the same bits however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vlp_bench import processes

Batches = Iterator[tuple[int, list[Any]]]
Compute = Callable[[int, list[Any]], list[Tensor]]


def data_parallel(batches: Batches, compute: Compute, device: torch.device) -> Iterator[tuple[int, list[Tensor]]]:
    """The number of every batch and what `compute` makes of it, in order, on every process.

    Process r computes batches r, r + n, ...; the weights must stay as they are from the first to the last.
    """
    size, mine = processes.size(), processes.rank()
    waiting: list[tuple[int, list[Tensor] | None]] = []
    for number, parts in batches:
        waiting.append((number, compute(number, parts) if len(waiting) == mine else None))
        if len(waiting) == size:
            yield from _exchanged(waiting, device)
            waiting = []
    yield from _exchanged(waiting, device)


def _exchanged(
    waiting: list[tuple[int, list[Tensor] | None]], device: torch.device
) -> Iterator[tuple[int, list[Tensor]]]:
    for owner, (number, own) in enumerate(waiting):
        yield number, processes.from_owner(own, owner, device)
