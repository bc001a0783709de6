"""The gradient rows of CHITA: cut into blocks, and as many blocks at a time as the processor's memory allows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import torch
from torch import Tensor

from vlp_bench.pruning.statistics.calibration import Calibration

STEP_PASSES = 2  # over the data for the model's step, while no rows are kept: the gradients' sum, a product with it
Precision = Literal["float32", "bfloat16", "int8"]
EXACT_FIRST: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
LARGEST = 127.0  # of int8


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
        bytes: that the rows of the largest group take, in the processor's memory.
        precision: in which they are kept.
    """

    groups: list[list[Block]]
    passes: int
    bytes: int
    precision: Precision = "float32"

    def __str__(self) -> str:
        rows = f"{self.bytes / 1e9:.2f} GB of gradient rows at a time, as {self.precision}"
        return f"{self.passes} passes over the data, {rows}"


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
                "give more, or smaller blocks (pruner.block_weights, block_size in Python), or fewer batches, or rows "
                "in int8"
            )
        if size > room:
            groups.append([])
            room = budget
        groups[-1].append(block)
        room -= size
    largest = max(sum(block.size for block in group) for group in groups)
    return Plan(groups, len(groups) + (STEP_PASSES if waiting and len(groups) > 1 else 0), one * largest, precision)


def fitting(weights: int, batches: int, memory_gb: float, taken: int = 0) -> Precision:
    """The most exact in which the rows of all weights are in memory at once; int8 if none is."""
    room = round(memory_gb * 1e9) - taken
    fit: list[Precision] = [p for p in EXACT_FIRST if weights * batches * bytes_of(p) <= room]
    return fit[0] if fit else "int8"


def bytes_of(precision: Precision) -> int:
    """Bytes of one number."""
    return getattr(torch, precision).itemsize


@dataclass(frozen=True)
class Row:
    """One batch's gradient of a layer's blocks, on the processor; of int8 with a factor for each block."""

    values: Tensor
    sizes: list[int]
    factors: Tensor | None = None

    @classmethod
    def of(cls, gradient: Tensor, sizes: list[int], precision: Precision) -> Row:
        """Flat, the blocks one after the other; a view where nothing has to change."""
        if precision != "int8":
            return cls(gradient.to("cpu", getattr(torch, precision)), sizes)
        parts = gradient.split(sizes)
        factors = torch.stack([part.abs().max() for part in parts]).div_(LARGEST)
        values = [(part / (f if f > 0 else 1)).round_().to(torch.int8) for part, f in zip(parts, factors, strict=True)]
        return cls(torch.cat(values).cpu(), sizes, factors.cpu())

    def blocks(self) -> list[tuple[Tensor, float]]:
        """The blocks' values and what each is to be multiplied with."""
        factors = [1.0] * len(self.sizes) if self.factors is None else self.factors.tolist()
        return list(zip(self.values.split(self.sizes), factors, strict=True))


class Rows:
    """The gradients of all batches for some blocks, in the tensors they come in: nothing is copied without need."""

    def __init__(self, blocks: list[Block], precision: Precision) -> None:
        self.blocks = blocks
        self._precision: Precision = precision
        self.names = list(dict.fromkeys(block.name for block in blocks))
        self._blocks = {name: list(own) for name, own in groupby(blocks, key=lambda block: block.name)}
        self._rows: dict[str, list[Row]] = {name: [] for name in self.names}
        self._device = torch.device("cpu")

    def add(self, gradients: dict[str, Tensor]) -> None:
        """The next batch's gradients, flat, by layer; what is missing is zero."""
        for name, rows in self._rows.items():
            sizes = [block.size for block in self._blocks[name]]
            if name not in gradients:
                rows.append(Row(torch.zeros(1, dtype=getattr(torch, self._precision)).expand(sum(sizes)), sizes))
                continue
            row = gradients[name]
            self._device = row.device
            if sum(sizes) < len(row):  # a part is copied, so that the whole can go
                row = torch.cat([row[block.start : block.stop] for block in self._blocks[name]])
            rows.append(Row.of(row, sizes, self._precision))

    def products(self, name: str, v: Tensor) -> Tensor:
        """(batches,) float64 product with v (n,), of a layer all of whose blocks are here."""
        return torch.stack([self._product(row, v) for row in self._rows[name]]).double()

    @staticmethod
    def _product(row: Row, v: Tensor) -> Tensor:
        if row.factors is None:
            return row.values.to(v.device, v.dtype) @ v
        pairs = zip(row.blocks(), v.split(row.sizes), strict=True)
        return torch.stack([(values.to(own.device, own.dtype) @ own) * f for (values, f), own in pairs]).sum()

    def pieces(self, wanted: Collection[Block]) -> Iterator[tuple[Block, Tensor]]:
        """The wanted blocks, rows (batches, n) float32 on the model's device, where the next one's will be."""
        rows = len(self._rows[self.names[0]])
        memory = torch.empty(rows * max(block.size for block in self.blocks), device=self._device)
        for name, blocks in self._blocks.items():
            for block, *parts in zip(blocks, *(row.blocks() for row in self._rows[name]), strict=True):
                if block in wanted:
                    where = memory[: len(parts) * block.size].view(len(parts), block.size)
                    yield block, _filled(where, parts)


def _filled(where: Tensor, parts: list[tuple[Tensor, float]]) -> Tensor:
    """(batches, n) float32 of the rows' values and factors; what lies on the processor goes to a device in one go."""
    values = [value for value, _ in parts]
    if where.device.type == "cpu" and values[0].dtype == torch.float32:
        return torch.stack(values, out=where)
    where.copy_(torch.stack([value.to(values[0].dtype) for value in values]))
    if values[0].dtype == torch.int8:
        where.mul_(torch.tensor([factor for _, factor in parts], device=where.device)[:, None])
    return where
