"""The gradient rows of CHITA: cut into blocks, and as many blocks at a time as memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import torch
from torch import Tensor

from vlp_bench.pruning.calibration import Calibration

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Block:
    """A range of one layer's flat weights that is solved for on its own."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """How the gradient rows are gone through: blocks whose rows are in memory together.

    Attributes:
        groups: of blocks; the rows of one group at a time are kept.
        passes: over the data, each a forward and a backward of every batch; more if a line search must be done.
        bytes: that the rows of the largest group take.
    """

    groups: list[list[Block]]
    passes: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.passes} passes over the data, {self.bytes / 1e9:.2f} GB of gradient rows at a time"


def cut(calibration: Calibration, block_size: int) -> list[Block]:
    """Layers of at least `block_size` weights in blocks of at least as many, the last a little larger; others whole."""
    found = []
    for name, layer in calibration.layers.items():
        pieces = max(1, layer.size // block_size)
        width = layer.size // pieces
        edges = [*range(0, pieces * width, width)[:pieces], layer.size]
        found += [Block(name, a, b) for a, b in pairwise(edges)]
    return found


def plan(blocks: list[Block], batches: int, memory_gb: float, precision: Precision = "float32") -> Plan:
    """Groups of blocks whose rows fit into `memory_gb` · 10⁹ bytes.

    Raises:
        ValueError: not even the largest block does.
    """
    groups: list[list[Block]] = [[]]
    one = batches * bytes_of(precision)
    room = memory_gb * 1e9
    for block in blocks:
        size = one * (block.stop - block.start)
        if size > memory_gb * 1e9:
            raise ValueError(
                f"memory_gb is {memory_gb}: the rows of one block take {size / 1e9:.3f} GB; "
                "give more, or a smaller block_size, or fewer batches, or rows in bfloat16"
            )
        if size > room:
            groups.append([])
            room = memory_gb * 1e9
        groups[-1].append(block)
        room -= size
    largest = max(sum(block.stop - block.start for block in group) for group in groups)
    return Plan(groups, 1 if len(groups) == 1 else 2 + len(groups), one * largest)


def bytes_of(precision: Precision) -> int:
    """Bytes of one number."""
    return getattr(torch, precision).itemsize


class Rows:
    """The gradients of all batches for some blocks, in the tensors they come in: nothing is copied without need."""

    def __init__(self, blocks: list[Block], precision: Precision) -> None:
        self.blocks = blocks
        self.names = list(dict.fromkeys(block.name for block in blocks))
        self._starts = {block.name: block.start for block in reversed(blocks)}
        self._stops = {block.name: block.stop for block in blocks}
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self.names}
        self._dtype = getattr(torch, precision)

    def add(self, gradients: dict[str, Tensor]) -> None:
        """The next batch's gradients, flat, by layer; what is missing is zero."""
        device = next(iter(gradients.values())).device if gradients else None
        for name, rows in self._rows.items():
            start, stop = self._starts[name], self._stops[name]
            if name in gradients:
                part = gradients[name][start:stop]
                copied = part.dtype != self._dtype or len(part) < gradients[name].numel()
                rows.append(part.to(self._dtype, copy=True) if copied else part)
            else:
                rows.append(torch.zeros(1, dtype=self._dtype, device=device).expand(stop - start))

    def products(self, name: str, v: Tensor) -> Tensor:
        """(batches,) float64 product with v (n,), of a layer all of whose blocks are here."""
        return torch.stack([row.to(v.dtype) @ v for row in self._rows[name]]).double()

    def pieces(self) -> Iterator[tuple[Block, Tensor]]:
        """Every block and its rows (batches, n) float32, where the next block's will be (it stays in a cache)."""
        first = self._rows[self.names[0]]
        largest = max(block.stop - block.start for block in self.blocks)
        memory = torch.empty(len(first) * largest, device=first[0].device)
        for name, group in groupby(self.blocks, key=lambda block: block.name):
            blocks = list(group)
            sizes = [block.stop - block.start for block in blocks]
            for block, *parts in zip(blocks, *(row.split(sizes) for row in self._rows[name]), strict=True):
                size = block.stop - block.start
                yield block, torch.stack(parts, out=memory[: len(parts) * size].view(len(parts), size))
