"""Calibration by several processes: each looks at some of the batches, all add up everything in the batches' order.

What a batch gives is the same wherever it is computed, and sums are made in one order by all; so the statistics, and
the masks made of them, have the same bits however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlp_bench import processes

Batches = Iterator[tuple[int, list[Any]]]
Compute = Callable[[int, list[Any]], list[Tensor]]


class Event(NamedTuple):
    """Something a batch gave.

    Attributes:
        layer: its name; "" where it is of none.
        numbers: two numbers about it.
        tensors: equally many for every event that has any.
    """

    layer: str
    numbers: tuple[float, float]
    tensors: tuple[Tensor, ...] = ()


class Relay:
    """Hands on what batches give, in the batches' order: at once, or when the processes have exchanged it.

    Args:
        take: gets every event.
        names: of the layers.
        device: where tensors of other processes are to be.
        shared: whether processes share the batches; the weights must then stay as they are from the first to the last.
    """

    def __init__(self, take: Callable[[Event], None], names: Sequence[str], device: torch.device, shared: bool) -> None:
        self._take, self._names, self._device, self._shared = take, ["", *names], device, shared
        self._index = {name: number for number, name in enumerate(self._names)}
        self._journal: list[Event] = []

    def __call__(self, event: Event) -> None:
        """For hooks that see something while a batch is run."""
        if self._shared:
            self._journal.append(event)
        else:
            self._take(event)

    def through(self, batches: Batches, run: Callable[[int, list[Any]], None]) -> Iterator[int]:
        """Runs every batch, here or in another process; its number once all that it gave was handed on."""
        if not self._shared:
            for number, parts in batches:
                run(number, parts)
                yield number
            return

        def compute(number: int, parts: list[Any]) -> list[Tensor]:
            self._journal.clear()
            run(number, parts)
            return self._packed()

        for number, tensors in data_parallel(batches, compute, self._device):
            for event in self._unpacked(tensors):
                self._take(event)
            yield number

    def _packed(self) -> list[Tensor]:
        heads = [[self._index[name], len(tensors), *numbers] for name, numbers, tensors in self._journal]
        told = [tensor for event in self._journal for tensor in event.tensors]
        tensors = list({id(tensor): tensor for tensor in told}.values())  # what several layers were told goes once
        places = {id(tensor): place for place, tensor in enumerate(tensors)}
        which = torch.tensor([places[id(tensor)] for tensor in told], dtype=torch.int64)
        self._journal.clear()
        return [torch.tensor(heads, dtype=torch.float64).view(-1, 4), which, *tensors]

    def _unpacked(self, packed: list[Tensor]) -> Iterator[Event]:
        tensors = (packed[2:][place] for place in packed[1].tolist())
        for index, count, *numbers in packed[0].tolist():
            its_tensors = tuple(next(tensors) for _ in range(int(count)))
            yield Event(self._names[int(index)], (numbers[0], numbers[1]), its_tensors)


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
