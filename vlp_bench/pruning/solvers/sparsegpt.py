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
from vlp_bench.pruning.solvers.layer_by_layer import check_finite, layer_by_layer
from vlp_bench.pruning.statistics.calibration import Calibration

TURNED, INVERTED = 256, 256  # rows that are turned, and inverted, in one go


@dataclass(frozen=True, eq=False)
class Factor:
    """U (d_in, d_in) float64, upper triangular with UᵀU = H⁻¹; and which inputs are always zero."""

    upper: Tensor
    dead: Tensor


@dataclass(frozen=True, kw_only=True)
class SparseGPT:
    """Optimal brain surgeon, a column at a time (Frantar and Alistarh, ICML 2023, Algorithm 1).

    Exactly as many survive as the budget says, every block of columns having its even share.

    Args:
        block_size: columns decided on together.
        damping: share of the mean curvature added to the diagonal of the Hessian.
        compat: "official" repeats ECoFLaP's copy: damping only where the factorisation fails, with a curvature of 1 in
            its mean for an input that is always 0, whatever the unit of the others; and within a block of columns
            everything up to and including the threshold at int(s·n) goes.
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
        self,
        w: Tensor,
        products: Tensor | Factor,
        kept: int,
        *,
        pattern: Pattern | None = None,
        alive: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask and new weights (d_out, d_in) float64 of one layer, see `LayerSolver`."""
        factor = products if isinstance(products, Factor) else self.prepared(products)
        upper, scale = factor.upper, factor.upper.diagonal()[:, None]
        columns = w.t().to(torch.float64, memory_format=torch.contiguous_format, copy=True)  # each lies in one piece
        columns[factor.dead] = 0
        mask = torch.empty_like(columns, dtype=torch.bool)
        for start in range(0, len(columns), self.block_size):
            stop = min(start + self.block_size, len(columns))
            errors = torch.empty_like(columns[start:stop])
            for first, last in pairwise([*range(start, stop, pattern[1] if pattern else stop - start), stop]):
                scores = (columns[first:last] / scale[first:last]).square_().t()
                if alive is not None:
                    scores.masked_fill_(~alive[:, first:last], float("-inf"))
                keep = (
                    keep_largest_per_group(scores, *pattern) if pattern else self._keep(scores, kept, len(upper), start)
                )
                mask[first:last] = keep.t()
                own = errors[first - start : last - start]
                sweep_columns(columns[first:last], ~mask[first:last], upper[first:last, first:last], own)
                columns[last:stop].addmm_(upper[first:last, last:stop].t(), own, alpha=-1)
            columns[stop:].addmm_(upper[start:stop, stop:].t(), errors, alpha=-1)
        return mask.t().contiguous(), columns.t().contiguous()

    def prepared(self, products: Tensor) -> Factor:
        """What `solve` needs of the products, which layers that read one tensor share.

        Raises:
            ValueError: they aren't finite.
        """
        check_finite(products)
        curvature, times = products.diagonal().double(), int(self.compat == "corrected")
        dead = curvature == 0
        alone = curvature.masked_fill(dead, 0.5)  # the released 1 of H = 2·products
        mean = (curvature if self.compat == "corrected" else alone).mean()
        while True:
            hessian = products.to(torch.float64, copy=True)
            hessian.diagonal().copy_(alone + times * self.damping * mean)
            if invert_upper_(hessian):
                return Factor(hessian, dead)
            times += 1

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


def invert_upper_(hessian: Tensor) -> bool:
    """H (n, n) becomes the upper triangular U with UᵀU = H⁻¹, in its place; false where H isn't positive definite.

    With the order of rows and columns turned round H = MMᵀ, M lower triangular; turned back, M⁻¹ is U. One
    factorisation, and no inverse of H.
    """
    _turn_(hessian)
    failed = torch.empty((), dtype=torch.int32, device=hessian.device)
    by_column = hessian.mT  # as LAPACK stores it: H is symmetric, and Mᵀ there is M here, without a copy
    torch.linalg.cholesky_ex(by_column, upper=True, out=(by_column, failed))
    if failed:
        return False
    hessian.tril_()
    _invert_lower_(hessian)
    _turn_(hessian)
    return True


def _turn_(matrix: Tensor) -> None:
    """Turns the order of rows and columns round, in place."""
    n = len(matrix)
    for first in range(0, (n + 1) // 2, TURNED):
        last = min(first + TURNED, (n + 1) // 2)
        above, below = matrix[first:last].flip(0, 1), matrix[n - last : n - first].flip(0, 1)
        matrix[first:last] = below
        matrix[n - last : n - first] = above


def _invert_lower_(lower: Tensor) -> None:
    """The inverse of a lower triangular matrix, in its place: halves, and a product between them."""
    n = len(lower)
    if n <= INVERTED:
        eye = torch.eye(n, dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    first, corner, last = lower[: n // 2, : n // 2], lower[n // 2 :, : n // 2], lower[n // 2 :, n // 2 :]
    _invert_lower_(first)
    _invert_lower_(last)
    corner.copy_(torch.linalg.multi_dot([last, corner, first])).neg_()


def sweep_columns(w: Tensor, gone: Tensor, upper: Tensor, errors: Tensor) -> None:
    """Zeroes what is gone, in place, and lets the later columns make up for it; the errors for those beyond.

    w, gone and errors (columns, d_out), upper (columns, columns).
    """
    n, leaf, least = len(w), *((column_by_column, 16) if w.device.type == "cpu" else (all_columns, 32))
    if n <= least:
        leaf(w, gone, upper, errors)
        return
    half = n // 2
    sweep_columns(w[:half], gone[:half], upper[:half, :half], errors[:half])
    w[half:].addmm_(upper[:half, half:].t(), errors[:half], alpha=-1)
    sweep_columns(w[half:], gone[half:], upper[half:, half:], errors[half:])


def column_by_column(w: Tensor, gone: Tensor, upper: Tensor, errors: Tensor) -> None:
    """`sweep_columns` as it is defined."""
    shares = gone / upper.diagonal()[:, None]
    for column in range(len(w)):
        torch.mul(w[column], shares[column], out=errors[column])
        w[column + 1 :].addr_(upper[column, column + 1 :], errors[column], alpha=-1)
    w.masked_fill_(gone, 0)


def all_columns(w: Tensor, gone: Tensor, upper: Tensor, errors: Tensor) -> None:
    """`sweep_columns` without a step a column: the errors E of a row solve E_S U_SS = w_S for what it loses, S."""
    lost = gone.t().to(w.dtype)  # (d_out, columns)
    systems = upper * lost[:, :, None] * lost[:, None] + torch.diag_embed(1 - lost)
    found = torch.linalg.solve_triangular(systems, (w.t() * lost)[:, None], upper=True, left=False)
    errors.copy_(found[:, 0].t())
    w.addmm_(upper.t(), errors, alpha=-1).masked_fill_(gone, 0)
