"""The gradient rows of CHITA: cut into blocks, and as many blocks at a time as memory allows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
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


def _memory(numbers: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(numbers,) without values; on a processor numpy's, which asks for huge pages: a third of the time to fill."""
    if device.type != "cpu":
        return torch.empty(numbers, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(numbers * dtype.itemsize, dtype=np.uint8)).view(dtype)


class Rows:
    """The gradients of all batches for some blocks: per block one matrix (batches, n), all in one piece of memory."""

    def __init__(self, blocks: list[Block], batches: int, precision: Precision, device: torch.device) -> None:
        sizes = [batches * (block.stop - block.start) for block in blocks]
        pieces = _memory(sum(sizes), getattr(torch, precision), device).split(sizes)
        self._rows = {block: piece.view(batches, -1) for block, piece in zip(blocks, pieces, strict=True)}
        self.names = list(dict.fromkeys(block.name for block in blocks))

    def put(self, number: int, gradients: dict[str, Tensor]) -> None:
        """The gradients of batch `number`, flat, by layer; what is missing is zero."""
        for block, rows in self._rows.items():
            own = gradients.get(block.name)
            rows[number] = 0 if own is None else own[block.start : block.stop]

    def take(self, block: Block) -> Tensor:
        """(batches, n) float32."""
        return self._rows[block].float()

    def sums(self, block: Block) -> Tensor:
        """(n,) float32 sum over the batches."""
        return self._rows[block].sum(0, dtype=torch.float32)

    def products(self, block: Block, v: Tensor) -> Tensor:
        """(batches,) float64 product with v (n,)."""
        return (self._rows[block].to(v.dtype) @ v).double()
