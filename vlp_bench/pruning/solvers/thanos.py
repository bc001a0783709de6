"""Thanos: removes a block of columns at a time; the survivors of each row make up for all that it loses at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat, check_positive
from vlp_bench.pruning.selection.patterns import Pattern, check_block, check_within, keep_best
from vlp_bench.pruning.selection.thresholds import count
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.layer_by_layer import check_finite, damped, layer_by_layer
from vlp_bench.pruning.statistics.calibration import Calibration

ROWS = 64  # solved together


@dataclass(frozen=True, kw_only=True)
class Thanos:
    """Block-wise joint updates (Ilin and Richtárik, Thanos, 2025).

    At each block the weights with the least |w|·‖X_j‖ of all columns to come are marked, as many as are still to go;
    those in the block go, and all later columns of a row change by -b R̂⁻¹ R: with R the rows of the inverse Hessian at
    what the row loses, R̂ its columns there, b the lost values. Exactly as many survive as the budget says.

    Args:
        block_size: columns decided on together.
        damping: share of the mean curvature added to the diagonal of the Hessian.
        within: "layer", or n:m as "2:4" (see `selection.patterns`): the best n of every group, as its block begins.
        compat: of the inputs' products (see `InputStatistic`).
    """

    block_size: int = 128
    damping: float = 0.01
    within: str = "layer"
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_within(self.within)
        check_block(self.within, self.block_size)
        check_positive(damping=self.damping)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks and new weights as stored, for the layers that have a budget."""
        return layer_by_layer(self, calibration, budgets)

    def solve(
        self, w: Tensor, products: Tensor, kept: int, *, pattern: Pattern | None = None, alive: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask and new weights (d_out, d_in) float64 of one layer, see `LayerSolver`."""
        check_finite(products)
        w, lengths = w.double().clone(), products.double().diagonal().sqrt()
        w[:, lengths == 0] = 0
        inverse = torch.linalg.inv(damped(products.double(), self.damping))
        mask = torch.ones_like(w, dtype=torch.bool)
        for start in range(0, w.shape[1], self.block_size):
            stop = min(start + self.block_size, w.shape[1])
            scores = w[:, start:].abs() * lengths[start:]
            if alive is not None:
                scores.masked_fill_(~alive[:, start:], -1.0)
            left = kept - count(mask[:, :start])
            best = keep_best(scores if pattern is None else scores[:, : stop - start].contiguous(), left, pattern)
            mask[:, start:stop] = best[:, : stop - start]
            _remove(w[:, start:], ~mask[:, start:stop], inverse)
            inverse = _without(inverse, stop - start)
        return mask, w.masked_fill(~mask, 0)


def _without(inverse: Tensor, columns: int) -> Tensor:
    """The inverse Hessian of what remains when the first columns are decided."""
    block, rest = inverse[:columns, :columns], inverse[:columns, columns:]
    return inverse[columns:, columns:] - rest.t() @ torch.linalg.solve(block, rest)


def _remove(w: Tensor, gone: Tensor, inverse: Tensor) -> None:
    """Takes the marked weights of the first columns away, in place, and lets all of their rows make up for it.

    w (d_out, columns), gone (d_out, block) bool, inverse (columns, columns).
    """
    block = gone.shape[1]
    corner = inverse[:block, :block]
    for rows in torch.arange(len(w), device=w.device).split(ROWS):
        own = gone[rows].double()
        system = corner * own[:, :, None] * own[:, None] + torch.diag_embed(1 - own)
        multipliers = torch.linalg.solve(system, w[rows, :block] * own)
        w[rows] -= multipliers @ inverse[:block]
