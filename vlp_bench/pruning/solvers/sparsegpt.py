"""SparseGPT: removes weights column by column and lets the columns to the right make up for it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat, check_positive
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.selection.patterns import Pattern, check_block, check_within
from vlp_bench.pruning.selection.thresholds import keep_largest, keep_largest_per_group
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.layer_by_layer import layer_by_layer
from vlp_bench.pruning.statistics.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class SparseGPT:
    """Optimal brain surgeon, a column at a time (Frantar and Alistarh, ICML 2023, Algorithm 1).

    Exactly as many survive as the budget says, every block of columns having its even share.

    Args:
        block_size: columns decided on together.
        damping: share of the mean curvature added to the diagonal of the Hessian.
        compat: "official" repeats ECoFLaP's copy: damping only where the factorisation fails, and within a block of
            columns everything up to and including the threshold at int(s·n) goes.
        within: "layer", or n:m as "2:4" (see `selection.patterns`): the best n of every group, as its turn comes.
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

    def may_keep(self, layer: Layer, budget: int) -> range:
        """How many of a layer's weights. Official: those above the threshold of each block of columns, less by ties."""
        if self.compat == "corrected" or self.within != "layer":
            return range(budget, budget + 1)
        rows, columns = layer.matrix.shape
        widths = [min(self.block_size, columns - start) for start in range(0, columns, self.block_size)]
        above = [rows * width - 1 - _threshold_place(rows * width, budget, rows * columns) for width in widths]
        return range(sum(above) + 1)

    def solve(
        self, w: Tensor, products: Tensor, kept: int, *, pattern: Pattern | None = None, alive: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask and new weights (d_out, d_in) float64 of one layer, see `LayerSolver`."""
        w, hessian = w.double().clone(), products.double().clone()
        dead = hessian.diagonal() == 0
        hessian.diagonal()[dead] = 1
        w[:, dead] = 0
        factor = self._factor(hessian)
        mask = torch.empty_like(w, dtype=torch.bool)
        for start in range(0, w.shape[1], self.block_size):
            stop = min(start + self.block_size, w.shape[1])
            errors = torch.empty_like(w[:, start:stop])
            for first, last in pairwise([*range(start, stop, pattern[1] if pattern else stop - start), stop]):
                scores = (w[:, first:last] / factor.diagonal()[first:last]).square()
                if alive is not None:
                    scores.masked_fill_(~alive[:, first:last], float("-inf"))
                keep = (
                    keep_largest_per_group(scores, *pattern) if pattern else self._keep(scores, kept, w.shape[1], start)
                )
                mask[:, first:last] = keep
                own = _sweep_columns(w[:, first:last], keep, factor[first:last, first:last])
                w[:, last:stop] -= own @ factor[first:last, last:stop]
                errors[:, first - start : last - start] = own
            w[:, stop:] -= errors @ factor[start:stop, stop:]
        return mask, w

    def _factor(self, hessian: Tensor) -> Tensor:
        """(d_in, d_in) upper triangular U with UᵀU = H⁻¹; raises ValueError if H isn't finite."""
        if not torch.isfinite(hessian).all():
            raise ValueError("the inputs' products hold NaN or infinity")
        damping = self.damping * hessian.diagonal().mean()
        if self.compat == "corrected":
            hessian.diagonal().add_(damping)
        while True:
            lower, failed = torch.linalg.cholesky_ex(hessian)
            if not failed:
                upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
            hessian.diagonal().add_(damping)

    def _keep(self, scores: Tensor, kept: int, columns: int, start: int) -> Tensor:
        """Mask of a block of columns within the layer's budget."""
        if self.compat == "corrected":
            stop = start + scores.shape[1]
            share = _rounded(kept * stop, columns) - _rounded(kept * start, columns)
            return keep_largest(scores, share)
        place = _threshold_place(scores.numel(), kept, columns * len(scores))
        return scores > scores.flatten().kthvalue(place + 1).values


def _threshold_place(size: int, kept: int, total: int) -> int:
    """Place, from 0 and in ascending order, of the largest score removed from `size` of a layer's `total` weights."""
    return min(size * (total - kept) // total, size - 1)


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _sweep_columns(w: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    """Zeroes what the mask removes, in place, and lets the columns right of it in the block make up for it.

    w and mask (d_out, columns), factor (columns, columns). Returns the errors (d_out, columns) for the columns beyond.
    """
    errors = torch.zeros_like(w)
    for column in range(w.shape[1]):
        errors[:, column] = w[:, column].masked_fill(mask[:, column], 0) / factor[column, column]
        w[:, column].masked_fill_(~mask[:, column], 0)
        w[:, column + 1 :] -= torch.outer(errors[:, column], factor[column, column + 1 :])
    return errors
