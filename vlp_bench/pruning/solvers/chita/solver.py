"""CHITA and CHITA++ (Benbaki et al., ICML 2023): removes weights and moves the others to make up for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_choice, check_compat, check_counts, check_positive
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.masks.bit_packing import pack, unpack
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.chita.block_problem import (
    NEGLIGIBLE,
    Part,
    Problem,
    largest_of,
    linear_part,
    solve_block,
)
from vlp_bench.pruning.solvers.chita.rows import STEP_PASSES, Block, Plan, Precision, Rows, cut, fitting, plan
from vlp_bench.pruning.solvers.chita.support_bounds import Outlook, look
from vlp_bench.pruning.statistics.batches import Snapshot
from vlp_bench.pruning.statistics.calibration import Calibration

log = logging.getLogger(__name__)
Flat = dict[str, Tensor]  # per layer, flat


@dataclass(frozen=True, kw_only=True)
class Chita:
    """The least squares of `block_problem`: one step for the model, then each block exactly.

    The model keeps the sum of the budgets; which layer keeps how much is decided here. Gradient rows are kept for as
    many blocks at a time as fit; the others are computed again. A block is solved for when its rows are first there,
    and again where a step may change its support.

    Args:
        ridge: λ; λ₂ = batches · λ / 2.
        block_size: weights solved for together, at least.
        memory_gb: for gradient rows and the masks of earlier stages, in units of 10⁹ bytes. Beside them the new weights
            are kept, and for the time of a batch its gradients.
        rows: how they are kept, on the processor: "float32" exactly; "bfloat16" and "int8" (with a factor for each
            row of a block) in a half and a quarter of the memory, with fewer passes where rows don't fit: masks differ
            a little. "auto": exactly where all fit, else in the most exact form in which they do.
        compat: "official" keeps what isn't exactly zero in the end, and loses a block whose line search fails.
    """

    ridge: float = 0.1
    block_size: int = 10_000
    memory_gb: float = 8.0
    rows: Precision | Literal["auto"] = "float32"
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_choice("rows", self.rows, ("auto", *get_args(Precision)))
        check_positive(ridge=self.ridge, memory_gb=self.memory_gb)
        check_counts(block_size=self.block_size)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks and new weights as stored."""
        return _Run(self, calibration, sum(budgets.values())).solved()

    def may_keep(self, layer: Layer, budget: int) -> range:
        """Any number of a layer's weights: the sum of the budgets counts."""
        return range(layer.size + 1)

    def may_keep_in_all(self, total: int) -> range:
        """The sum of the budgets. Official: less by what became exactly zero."""
        return range(0 if self.compat == "official" else total, total + 1)


class _Run:
    """One answer in the making. Vectors are flat, per layer, in the parameters' own orientation."""

    def __init__(self, settings: Chita, calibration: Calibration, kept: int) -> None:
        self.settings, self.calibration = settings, calibration
        self.official = settings.compat == "official"
        self.batches, self.rows_seen = calibration.count()
        self.damping = self.batches * settings.ridge  # 2λ₂
        self.layers = calibration.layers
        self.alive = {n: self.layers[n].as_stored(mask).flatten() for n, mask in calibration.alive.items()}
        self.blocks = cut(calibration, settings.block_size)
        self.precision: Precision = self._precision()
        self.plan = self._plan(self.blocks)
        self.rows: Rows | None = None
        self.timed = False
        self.side_states = Snapshot(calibration.side_states() if len(self.plan.groups) > 1 else [])
        w = [self._weights(name) for name in self.layers]
        alive, values = [self.alive.get(name) for name in self.layers], [torch.empty_like(own) for own in w]
        self.support = self._packed(largest_of(lambda i: w[i], kept, alive, memory=values))
        self.values = dict(zip(self.layers, values, strict=True))

    def solved(self) -> Solved:
        log.info("CHITA: %s", self.plan)
        if len(self.plan.groups) == 1:
            self.rows = self._rows_of(self.blocks)
        length, left = (None, self.blocks) if self.official else self._at_sight()
        if length is None:
            length, left = self._first_step(), self.blocks
        elif left:
            log.info("CHITA: a step may change the support of %d of %d blocks", len(left), len(self.blocks))
        for block, piece in self._pieces(left):
            self._solve(block, piece, length)
        self.rows = None  # before the masks are there
        return self._answer()

    def _at_sight(self) -> tuple[float | None, list[Block]]:
        """The model's step and the blocks whose support may change; all others get their values.

        None: the step has to be known first, or it takes fewer passes to wait for it.
        """
        outlook = Outlook.of(len(self.blocks), self.batches, self.values[self.blocks[0].name].device)
        length, left, number = None, self.blocks, 0
        for done, group in enumerate(self.plan.groups, 1):
            for block, rows in self._pieces(group):
                w, values, support = self._parts(block)
                found, own = look(rows.to(w.dtype), w, self.rows_seen, support, self.damping)
                values.copy_(found)
                outlook.put(number, own)
                number += 1
            length, left = self._uncertain(outlook.first(number), number / len(self.blocks))
            again = len(left) / number * len(self.plan.groups)  # groups that would be gone through a second time
            if done < len(self.plan.groups) and again > done + STEP_PASSES:
                return None, self.blocks
        return length, left

    def _uncertain(self, outlook: Outlook, share: float) -> tuple[float | None, list[Block]]:
        """The model's step and those of the first blocks, a share of all, whose support may change."""
        length = outlook.length(self.damping, share)
        if length is None:
            return None, []
        stays = outlook.stays(length, self.damping).tolist()
        return length, [block for block, certain in zip(self.blocks, stays, strict=False) if not certain]

    def _precision(self) -> Precision:
        if self.settings.rows != "auto":
            return self.settings.rows
        taken = sum(mask.numel() for mask in self.alive.values())
        return fitting(self.calibration.total, self.batches, self.settings.memory_gb, taken)

    def _plan(self, blocks: list[Block]) -> Plan:
        taken = sum(mask.numel() for mask in self.alive.values())
        memory, rows = self.settings.memory_gb, self.precision
        return plan(blocks, self.batches, memory, rows, taken=taken, waiting=self.official)

    def _weights(self, name: str, part: slice = slice(None)) -> Tensor:
        """The dense weights: the model's own, if they are float32."""
        weight = self.layers[name].weight.detach().reshape(-1)[part]
        return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()

    def _parts(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """w, a view of the values, and the support (n,)."""
        part = slice(block.start, block.stop)
        values = self.values[block.name][part]
        return self._weights(block.name, part), values, unpack(self.support[block], (block.size,)).to(values.device)

    def _packed(self, masks: Sequence[Tensor]) -> dict[Block, Tensor]:
        """The layers' masks, a bit for a weight: as bytes they would take as much as a quarter of the weights."""
        whole = dict(zip(self.layers, masks, strict=True))
        return {block: pack(whole[block.name][block.start : block.stop]) for block in self.blocks}

    def _masks(self) -> Flat:
        """The layers' masks."""
        by_layer = groupby(self.blocks, key=lambda block: block.name)
        return {name: torch.cat([self._parts(block)[2] for block in own]) for name, own in by_layer}

    def _gradients(self, names: list[str]) -> Iterator[Flat]:
        """The gradient of every batch; entries of removed weights are zero."""
        self.side_states.restore()  # every pass gives the same rows
        started = time.perf_counter()
        for own in self.calibration.subset(names).gradients_of_batches():
            if not self.timed:
                seconds = (time.perf_counter() - started) * self.batches * self.plan.passes
                log.info("CHITA: gradients take about %.0f s", seconds)
                self.timed = True
            yield {name: self._masked(name, gradient.flatten()) for name, gradient in own.items()}

    def _masked(self, name: str, gradient: Tensor) -> Tensor:
        return gradient.mul_(self.alive[name]) if name in self.alive else gradient

    def _rows_of(self, group: list[Block]) -> Rows:
        rows = Rows(group, self.precision)
        for gradients in self._gradients(rows.names):
            rows.add(gradients)
        return rows

    def _pieces(self, blocks: list[Block]) -> Iterator[tuple[Block, Tensor]]:
        """The blocks with their rows, in memory or computed again for as many as fit."""
        if self.rows is not None:
            yield from self.rows.pieces(set(blocks))
        elif blocks:
            for group in self._plan(blocks).groups:
                yield from self._rows_of(group).pieces(set(group))  # gone before the next group's are there

    def _product(self, v: Part) -> Tensor:
        """Xv (b,) float64, from the rows in memory or from another pass; v holds all layers."""
        products = torch.zeros(self.batches, dtype=torch.float64, device=v(0).device)
        for i, name in enumerate(self.layers):
            if self.rows is not None:
                products += self.rows.products(name, v(i))
        if self.rows is None:
            parts = {name: i for i, name in enumerate(self.layers)}
            for number, gradients in enumerate(self._gradients(list(self.layers))):
                for name, gradient in gradients.items():
                    products[number] += (gradient @ v(parts[name]).to(gradient)).double()
        return products

    def _first_step(self) -> float | None:
        """The length of the model's step, which may change the support; None: it erases everything."""
        w, alive = [self._weights(name) for name in self.layers], [self.alive.get(name) for name in self.layers]
        for values in self.values.values():
            values.zero_()
        if self.rows is not None:
            for block, rows in self._pieces(self.blocks):
                own, values, _ = self._parts(block)
                values.copy_(linear_part(rows.to(own.dtype), self.rows_seen))
        else:
            for gradients in self._gradients(list(self.layers)):
                for name, gradient in gradients.items():
                    self.values[name] += gradient
            for values in self.values.values():
                values.mul_(1 / self.rows_seen)
        a = list(self.values.values())

        def objective(v: Part) -> float:
            square = sum(float((v(i) - w[i]).double().square().sum()) for i in range(len(w)))
            first = sum(float((a[i] * v(i)).sum(dtype=torch.float64)) for i in range(len(w)))
            quadratic = float(self._product(lambda i: v(i) - w[i]).square().sum()) + self.damping * square
            return quadratic / 2 + first

        if sum(float(values.double().square().sum()) for values in a) ** 0.5 <= NEGLIGIBLE:
            return 0.0
        problem = Problem(w, a, self._product, objective, self.damping, alive)
        step = problem.step(list(self._masks().values()), self.settings.compat)
        self.support = self._packed(step.support)
        return None if step.erased else step.length

    def _solve(self, block: Block, rows: Tensor, length: float | None) -> None:
        """Values and support of a block after the model's step; a length of None erased it."""
        w, values, support = self._parts(block)
        rows = rows.to(w.dtype)
        b = torch.zeros_like(w) if length is None else (w - length * linear_part(rows, self.rows_seen)) * support
        if self.official:
            support &= b != 0
        if not support.any():
            values.zero_()
            return
        alive = self.alive[block.name][block.start : block.stop] if block.name in self.alive else None
        found, mask = solve_block(rows, b, w, self.rows_seen, support, self.damping, alive, self.settings.compat)
        values.copy_(found)
        self.support[block] = pack(mask)

    def _answer(self) -> Solved:
        shaped = {name: (layer.weight.shape, layer.weight.dtype) for name, layer in self.layers.items()}
        flat = {n: values != 0 for n, values in self.values.items()} if self.official else self._masks()
        masks = {n: flat[n].view(shape) for n, (shape, _) in shaped.items()}
        weights = {n: self.values[n].view(shape).to(dtype) for n, (shape, dtype) in shaped.items()}
        return Solved(masks, weights)
