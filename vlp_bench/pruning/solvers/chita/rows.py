"""The gradient rows of CHITA: cut into blocks, and as many blocks at a time as memory allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import torch
from torch import Tensor

from vlp_bench.pruning.statistics.calibration import Calibration

STEP_PASSES = 2  # over the data for the model's step, while no rows are kept: the gradients' sum, a product with it
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Block:
    """A range of one layer's flat weights that is solved for on its own."""

    name: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Its number of weights."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """How the gradient rows are gone through: blocks whose rows are in memory together.

    Attributes:
        groups: of blocks; the rows of one group at a time are kept.
        passes: over the data, each a forward and a backward of every batch: one for each group, and two more if the
            blocks wait for the model's step. More where a step may change a support.
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


def plan(
    blocks: list[Block],
    batches: int,
    memory_gb: float,
    precision: Precision = "float32",
    *,
    taken: int = 0,
    waiting: bool = False,
) -> Plan:
    """Groups of blocks whose rows fit into `memory_gb` · 10⁹ bytes.

    Args:
        taken: bytes in use for something else.
        waiting: the blocks are solved for when the model's step is known, not as soon as their rows are there.

    Raises:
        ValueError: not even the largest block does.
    """
    groups: list[list[Block]] = [[]]
    one = batches * bytes_of(precision)
    budget = round(memory_gb * 1e9) - taken
    room = budget
    for block in blocks:
        size = one * block.size
        if size > budget:
            raise ValueError(
                f"memory_gb is {memory_gb}, of which {taken / 1e9:.3g} are taken: "
                f"the rows of one block need {size / 1e9:.3g}; "
                "give more, or a smaller block_size, or fewer batches, or rows in bfloat16"
            )
        if size > room:
            groups.append([])
            room = budget
        groups[-1].append(block)
        room -= size
    largest = max(sum(block.size for block in group) for group in groups)
    return Plan(groups, len(groups) + (STEP_PASSES if waiting and len(groups) > 1 else 0), one * largest)


def bytes_of(precision: Precision) -> int:
    """Bytes of one number."""
    return getattr(torch, precision).itemsize


class Rows:
    """The gradients of all batches for some blocks, in the tensors they come in: nothing is copied without need."""

    def __init__(self, blocks: list[Block], precision: Precision) -> None:
        self.blocks = blocks
        self.names = list(dict.fromkeys(block.name for block in blocks))
        self._blocks = {name: list(own) for name, own in groupby(blocks, key=lambda block: block.name)}
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self.names}
        self._dtype = getattr(torch, precision)

    def add(self, gradients: dict[str, Tensor]) -> None:
        """The next batch's gradients, flat, by layer; what is missing is zero."""
        device = next(iter(gradients.values())).device if gradients else None
        for name, rows in self._rows.items():
            sizes = [block.size for block in self._blocks[name]]
            if name not in gradients:
                rows.append(torch.zeros(1, dtype=self._dtype, device=device).expand(sum(sizes)))
                continue
            row = gradients[name]
            if sum(sizes) < len(row):  # a part is copied, so that the whole can go
                row = torch.cat([row[block.start : block.stop] for block in self._blocks[name]])
            rows.append(row.to(self._dtype))

    def products(self, name: str, v: Tensor) -> Tensor:
        """(batches,) float64 product with v (n,), of a layer all of whose blocks are here."""
        return torch.stack([row.to(v.dtype) @ v for row in self._rows[name]]).double()

    def pieces(self, wanted: Collection[Block]) -> Iterator[tuple[Block, Tensor]]:
        """The wanted blocks and their rows (batches, n) float32, where the next one's will be (it stays in a cache)."""
        first = self._rows[self.names[0]]
        memory = torch.empty(len(first) * max(block.size for block in self.blocks), device=first[0].device)
        for name, blocks in self._blocks.items():
            sizes = [block.size for block in blocks]
            for block, *parts in zip(blocks, *(row.split(sizes) for row in self._rows[name]), strict=True):
                if block in wanted:
                    where = memory[: len(parts) * block.size].view(len(parts), block.size)
                    yield block, torch.stack(parts, out=where)
