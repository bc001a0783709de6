"""CHITA and CHITA++ (Benbaki et al., ICML 2023): removes weights and moves the others to make up for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from vlp_bench.pruning.batches import Snapshot
from vlp_bench.pruning.calibration import Calibration
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.quadratic import Part, Problem, Step, largest_of, solve_block
from vlp_bench.pruning.solvers.rows import Block, Precision, Rows, cut, plan

log = logging.getLogger(__name__)
Flat = dict[str, Tensor]  # per layer, flat


@dataclass(frozen=True, kw_only=True)
class Chita:
    """The least squares of `vlp_bench.pruning.solvers.quadratic`: one step for the model, then each block exactly.

    The model keeps the sum of the budgets; which layer keeps how much is decided here. Gradient rows are kept for as
    many blocks at a time as fit; the others are computed again.

    Args:
        ridge: λ; λ₂ = batches · λ / 2.
        block_size: weights solved for together, at least.
        memory_gb: for gradient rows, in units of 10⁹ bytes. Beside them 5 bytes for every prunable weight are kept, and
            for the time of a batch its gradients.
        rows: "bfloat16" takes half the memory, and half the passes where rows don't fit; masks differ a little.
        compat: "official" keeps what isn't exactly zero in the end, and loses a block whose line search fails.
    """

    ridge: float = 0.1
    block_size: int = 10_000
    memory_gb: float = 8.0
    rows: Precision = "float32"
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_choice("rows", self.rows, get_args(Precision))
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
        self.layers = calibration.layers
        self.numbers = {name: i for i, name in enumerate(self.layers)}
        self.alive = {n: self.layers[n].as_stored(mask).flatten() for n, mask in calibration.alive.items()}
        blocks = cut(calibration, settings.block_size)
        self.plan = plan(blocks, self.batches, settings.memory_gb, settings.rows)
        self.rows: Rows | None = None
        self.timed = False
        self.side_states = Snapshot(calibration.side_states() if len(self.plan.groups) > 1 else [])

    def solved(self) -> Solved:
        log.info("CHITA: %s", self.plan)
        if len(self.plan.groups) == 1:
            self.rows = self._rows_of(self.plan.groups[0])
        step = self._first_step()
        values = dict(zip(self.layers, step.problem.gradient, strict=True))
        for group in self.plan.groups:
            rows = self.rows or self._rows_of(group)
            for block, piece in rows.pieces():
                self._solve(block, piece, step)
            self.rows = rows = None  # before the next group's are there
        return self._answer(values, dict(zip(self.layers, step.support, strict=True)))

    def _weights(self, name: str) -> Tensor:
        """The dense weights: the model's own, if they are float32."""
        weight = self.layers[name].weight.detach()
        return (weight if weight.dtype in (torch.float32, torch.float64) else weight.float()).reshape(-1)

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
        return gradient.mul_(self.alive[name]) if name in self.alive else gradient

    def _rows_of(self, group: list[Block]) -> Rows:
        rows = Rows(group, self.settings.rows)
        for gradients in self._gradients(rows.names):
            rows.add(gradients)
        return rows

    def _linear(self, support: list[Tensor]) -> tuple[Flat, Tensor | None]:
        """a, the gradients' sum over the number of images; if rows are in memory, X times its part on the support."""
        sums = {name: torch.zeros_like(self._weights(name)) for name in self.layers}
        if self.rows is None:
            for gradients in self._gradients(list(self.layers)):
                for name, gradient in gradients.items():
                    sums[name] += gradient
            return {name: values.mul_(1 / self.rows_seen) for name, values in sums.items()}, None
        along = torch.zeros(self.batches, dtype=torch.float64, device=support[0].device)
        for block, piece in self.rows.pieces():
            own = sums[block.name][block.start : block.stop]
            own.copy_(piece.sum(0)).mul_(1 / self.rows_seen)  # rounded as the released code does
            inside = support[self.numbers[block.name]][block.start : block.stop]
            along += piece.to(own.dtype) @ (own * inside)
        return sums, along

    def _product(self, v: Part) -> Tensor:
        """Xv (b,) float64, from the rows in memory or from another pass; v holds all layers."""
        products = torch.zeros(self.batches, dtype=torch.float64, device=v(0).device)
        if self.rows is not None:
            for name, i in self.numbers.items():
                products += self.rows.products(name, v(i))
            return products
        for number, gradients in enumerate(self._gradients(list(self.layers))):
            for name, gradient in gradients.items():
                products[number] += (gradient @ v(self.numbers[name]).to(gradient)).double()
        return products

    def _first_step(self) -> Step:
        """The step for the whole model."""
        w, alive = [self._weights(name) for name in self.layers], [self.alive.get(name) for name in self.layers]
        support = largest_of(lambda i: w[i], self.kept, alive)
        linear, along = self._linear(support)
        a = list(linear.values())

        def objective(v: Part) -> float:
            square = sum(float((v(i) - w[i]).double().square().sum()) for i in range(len(w)))
            first = sum(float((a[i] * v(i)).sum(dtype=torch.float64)) for i in range(len(w)))
            quadratic = float(self._product(lambda i: v(i) - w[i]).square().sum()) + self.damping * square
            return quadratic / 2 + first

        problem = Problem(w, a, self._product, objective, self.damping, alive)
        if sum(float(values.double().square().sum()) for values in a) ** 0.5 <= 1e-8:
            return Step(problem, 0.0, support)
        return problem.step(support, self.settings.compat, along)

    def _solve(self, block: Block, rows: Tensor, step: Step) -> None:
        """Puts the block's values in the place of its part of a, and their mask in that of the step's support."""
        own, number = slice(block.start, block.stop), self.numbers[block.name]
        w, a, support = self._weights(block.name)[own], step.problem.gradient[number][own], step.support[number][own]
        b = torch.zeros_like(w) if step.erased else (w - step.length * a) * support
        if self.settings.compat == "official":
            support &= b != 0
        if not support.any():
            a.zero_()
            return
        alive = self.alive[block.name][own] if block.name in self.alive else None
        found, mask = solve_block(rows.to(w.dtype), b, w, a, support, self.damping, alive, self.settings.compat)
        a.copy_(found)
        support.copy_(mask)

    def _answer(self, values: Flat, support: Flat) -> Solved:
        official = self.settings.compat == "official"
        shaped = {name: (layer.weight.shape, layer.weight.dtype) for name, layer in self.layers.items()}
        masks = {n: (values[n] != 0 if official else support[n]).view(shape) for n, (shape, _) in shaped.items()}
        weights = {n: values[n].view(shape).to(dtype) for n, (shape, dtype) in shaped.items()}
        return Solved(masks, weights)
