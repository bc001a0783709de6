"""CHITA and CHITA++ (Benbaki et al., ICML 2023): removes weights and moves the others to make up for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vlp_bench.pruning.batches import Snapshot
from vlp_bench.pruning.calibration import Calibration
from vlp_bench.pruning.checks import Compat, check_compat
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.quadratic import solve_block, step

log = logging.getLogger(__name__)
Flat = dict[str, Tensor]  # per layer, flat


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


def plan(blocks: list[Block], batches: int, memory_gb: float) -> Plan:
    """Groups of blocks whose float32 rows fit into `memory_gb` · 10⁹ bytes.

    Raises:
        ValueError: not even the largest block does.
    """
    groups: list[list[Block]] = [[]]
    room = memory_gb * 1e9
    for block in blocks:
        size = 4 * batches * (block.stop - block.start)
        if size > memory_gb * 1e9:
            raise ValueError(
                f"memory_gb is {memory_gb}: the rows of one block take {size / 1e9:.3f} GB; "
                "give more, or a smaller block_size, or fewer batches"
            )
        if size > room:
            groups.append([])
            room = memory_gb * 1e9
        groups[-1].append(block)
        room -= size
    largest = max(sum(block.stop - block.start for block in group) for group in groups)
    return Plan(groups, 1 if len(groups) == 1 else 2 + len(groups), 4 * batches * largest)


@dataclass(frozen=True, kw_only=True)
class Chita:
    """The least squares of `vlp_bench.pruning.solvers.quadratic`: one step for the model, then each block exactly.

    The model keeps the sum of the budgets; which layer keeps how much is decided here. Gradient rows are kept for as
    many blocks at a time as fit; the others are computed again.

    Args:
        ridge: λ; λ₂ = batches · λ / 2.
        block_size: weights solved for together, at least.
        memory_gb: for gradient rows, in units of 10⁹ bytes.
        compat: "official" keeps what isn't exactly zero in the end, and loses a block whose line search fails.
    """

    ridge: float = 0.1
    block_size: int = 10_000
    memory_gb: float = 8.0
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        for what in ("ridge", "block_size", "memory_gb"):
            if not getattr(self, what) > 0:
                raise ValueError(f"{what} must be positive, got {getattr(self, what)}")

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks and new weights as stored."""
        return _Run(self, calibration, sum(budgets.values())).solved()


class _Run:
    """One answer in the making. Vectors are flat, per layer, in the parameters' own orientation."""

    def __init__(self, settings: Chita, calibration: Calibration, kept: int) -> None:
        self.settings, self.calibration, self.kept = settings, calibration, kept
        self.batches, self.rows_seen = calibration.count()
        self.damping = self.batches * settings.ridge  # 2λ₂
        layers = calibration.layers
        self.w = {name: layer.as_stored(layer.matrix).flatten().clone() for name, layer in layers.items()}
        self.alive = {name: layers[name].as_stored(mask).flatten() for name, mask in calibration.alive.items()}
        self.plan = plan(cut(calibration, settings.block_size), self.batches, settings.memory_gb)
        self.kept_rows: dict[Block, list[Tensor]] = {}
        self.timed = False
        self.side_states = Snapshot(calibration.side_states() if len(self.plan.groups) > 1 else [])

    def solved(self) -> Solved:
        log.info("CHITA: %s", self.plan)
        if len(self.plan.groups) == 1:
            self._keep_rows(self.plan.groups[0])
        linear = self._linear()
        values, support = self._first_step(linear)
        for group in self.plan.groups:
            if len(self.plan.groups) > 1:
                self._keep_rows(group)
            for block in group:
                self._solve(block, linear[block.name], values[block.name], support[block.name])
        return self._answer(values, support)

    def _gradients(self, names: list[str]) -> Iterator[Flat]:
        """The gradient of every batch; entries of removed weights are zero."""
        self.side_states.restore()  # every pass gives the same rows
        started = time.perf_counter()
        for own in self.calibration.about(names).gradients_of_batches():
            if not self.timed:
                seconds = (time.perf_counter() - started) * self.batches * self.plan.passes
                log.info("CHITA: gradients take about %.0f s", seconds)
                self.timed = True
            yield {name: self._masked(name, gradient.flatten()) for name, gradient in own.items()}

    def _masked(self, name: str, gradient: Tensor) -> Tensor:
        return gradient * self.alive[name] if name in self.alive else gradient

    def _keep_rows(self, group: list[Block]) -> None:
        self.kept_rows = {block: [] for block in group}
        for gradients in self._gradients(list(dict.fromkeys(block.name for block in group))):
            for block in group:
                row = gradients.get(block.name, torch.zeros_like(self.w[block.name]))
                self.kept_rows[block].append(row[block.start : block.stop].clone())

    def _linear(self) -> Flat:
        """a: the gradients' sum over the number of images."""
        sums = {name: torch.zeros_like(values) for name, values in self.w.items()}
        if self.kept_rows:
            for block, rows in self.kept_rows.items():
                for row in rows:
                    sums[block.name][block.start : block.stop] += row
        else:
            for gradients in self._gradients(list(self.w)):
                for name, gradient in gradients.items():
                    sums[name] += gradient
        return {name: values / self.rows_seen for name, values in sums.items()}

    def _product(self, v: Tensor) -> Tensor:
        """Xv (b,) float64, from the rows in memory or from another pass; v holds all layers."""
        parts = self._split(v)
        if self.kept_rows:
            products = torch.zeros(self.batches, dtype=torch.float64, device=v.device)
            for block, rows in self.kept_rows.items():
                own = parts[block.name][block.start : block.stop]
                products += torch.stack([row @ own for row in rows]).double()
            return products
        passes = self._gradients(list(self.w))
        return torch.stack(
            [sum((g[n] @ parts[n]).double() for n in g) + v.new_zeros((), dtype=torch.float64) for g in passes]
        )

    def _split(self, v: Tensor) -> Flat:
        return dict(zip(self.w, v.split([values.numel() for values in self.w.values()]), strict=True))

    def _joined(self, parts: Flat) -> Tensor:
        return torch.cat([parts[name] for name in self.w])

    def _first_step(self, linear: Flat) -> tuple[Flat, Flat]:
        """The step for the whole model: values and support."""
        w, a = self._joined(self.w), self._joined(linear)
        alive = None
        if self.alive:
            alive = torch.cat([self.alive.get(n, torch.ones_like(v, dtype=torch.bool)) for n, v in self.w.items()])

        def objective(v: Tensor) -> float:
            off = v - w
            quadratic = self._product(off).square().sum() + self.damping * off.double().square().sum()
            return float(quadratic / 2 + (a * v).sum(dtype=torch.float64))

        gradient = a if float(a.norm()) > 1e-8 else torch.zeros_like(a)
        values, support = step(
            w,
            gradient,
            self.kept,
            product=self._product,
            objective=objective,
            damping=self.damping,
            alive=alive,
            compat=self.settings.compat,
        )
        return self._split(values), self._split(support)

    def _solve(self, block: Block, linear: Tensor, values: Tensor, support: Tensor) -> None:
        """Replaces the block's part of `values` and `support`."""
        own = slice(block.start, block.stop)
        rows = self.kept_rows.pop(block)
        k = int((values[own] != 0).sum()) if self.settings.compat == "official" else int(support[own].sum())
        if not k:
            values[own], support[own] = 0, False
            return
        alive = self.alive[block.name][own] if block.name in self.alive else None
        found, mask = solve_block(
            torch.stack(rows).double(),
            values[own].double(),
            self.w[block.name][own].double(),
            linear[own].double(),
            k,
            self.damping,
            alive,
            self.settings.compat,
        )
        values[own], support[own] = found.to(values), mask

    def _answer(self, values: Flat, support: Flat) -> Solved:
        official = self.settings.compat == "official"
        layers = self.calibration.layers
        masks = {n: (values[n] != 0 if official else support[n]).view(layers[n].weight.shape) for n in self.w}
        weights = {n: values[n].view(layers[n].weight.shape).to(layers[n].weight.dtype) for n in self.w}
        return Solved(masks, weights)
