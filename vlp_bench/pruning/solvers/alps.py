"""ALPS: the alternating direction method finds which weights stay, conjugate gradients their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat, check_counts, check_positive
from vlp_bench.pruning.selection.patterns import Pattern, check_within, keep_best
from vlp_bench.pruning.selection.thresholds import count
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.layer_by_layer import check_finite, damped, layer_by_layer
from vlp_bench.pruning.statistics.calibration import Calibration

EVERY = 3  # iterations between looks at how much the support moves
GROWTH = ((0.1, 1.3), (0.005, 1.2))  # by what ρ grows where a larger share of the support has moved
SETTLED, SETTLES_AFTER = 3e-4, 30  # after so many iterations this share is little enough
LARGEST_RHO, FIRST_RHO, SHRINKS = 1e6, 0.1, 5.0
RESIDUAL = 1e-4


@dataclass(frozen=True, kw_only=True)
class ALPS:
    """min ‖X(W - W')‖² with k weights a layer, by ADMM and conjugate gradients (Meng et al., ALPS, NeurIPS 2024).

    Exactly k survive of a layer, in any of its rows. The support and the values are those of float64.

    Args:
        within: "layer", or n:m as "2:4" (see `selection.patterns`).
        damping: share of the mean curvature added to the diagonal of the Hessian.
        iterations: of ADMM, at most.
        steps: of conjugate gradients.
        compat: "official" goes on from ADMM's values as they are; corrected is never worse than the largest weights
            as they were, whose support is kept if conjugate gradients end there with a smaller error.
    """

    within: str = "layer"
    damping: float = 0.01
    iterations: int = 300
    steps: int = 10
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_within(self.within)
        check_positive(damping=self.damping)
        check_counts(iterations=self.iterations, steps=self.steps)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks and new weights as stored, for the layers that have a budget."""
        return layer_by_layer(self, calibration, budgets)

    def solve(
        self, w: Tensor, products: Tensor, kept: int, *, pattern: Pattern | None = None, alive: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask and new weights (d_out, d_in) float64 of one layer, see `LayerSolver`."""
        check_finite(products)
        if kept >= w.numel():
            return torch.ones_like(w, dtype=torch.bool), w.double()
        hessian, scale = _normalised(products.double(), self.damping)
        dense = w.double() * scale

        def keep(values: Tensor) -> Tensor:
            scores = values.square()
            return keep_best(scores if alive is None else scores.masked_fill(~alive, -1.0), kept, pattern)

        found = self._admm(dense, hessian, keep, kept)
        mask = keep(found)
        values = self._refined(found * mask, dense, hessian, mask)
        if self.compat == "corrected":
            mask, values = self._or_largest(mask, values, dense, hessian, keep(dense))
        return mask, values / scale

    def _or_largest(
        self, mask: Tensor, values: Tensor, dense: Tensor, hessian: Tensor, largest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What was found, or the support ADMM began with where its error is smaller."""
        plain = self._refined(dense * largest, dense, hessian, largest)
        better = error(plain - dense, hessian) < error(values - dense, hessian)
        return (largest, plain) if better else (mask, values)

    def _admm(self, dense: Tensor, hessian: Tensor, keep: Callable[[Tensor], Tensor], kept: int) -> Tensor:
        """(d_out, d_in): the values whose largest are the support."""
        curvature, basis = torch.linalg.eigh(hessian)
        target, rho, grown = dense @ hessian, FIRST_RHO, False
        support = keep(dense)
        values, sparse, dual = dense, dense * support, torch.zeros_like(dense)
        for step in range(1, self.iterations + 1):
            values = ((target - dual + rho * sparse) @ basis / (curvature + rho)) @ basis.t()
            moved = values + dual / rho
            own = keep(moved)
            sparse = moved * own
            dual = dual + rho * (values - sparse)
            if step % EVERY:
                continue
            changes, support = count(own ^ support), own
            factor = _growth(changes, kept, grown)
            if factor is None or (step > SETTLES_AFTER and changes < SETTLED * kept):
                break
            if changes and factor < 1:  # ρ was so large that nothing moves: once more from the start
                sparse, dual = dense * keep(dense), torch.zeros_like(dense)
            grown, rho = grown or factor > 1, min(rho * factor, LARGEST_RHO)
        return values

    def _refined(self, start: Tensor, dense: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
        """Conjugate gradients on the support: the values that make up best for what is gone, row by row."""
        values, target = start, dense @ hessian
        residual = (target - values @ hessian) * mask
        direction, length = residual, residual.square().sum(1, keepdim=True)
        enough = (RESIDUAL * target.norm(dim=1, keepdim=True)).square()
        for _ in range(self.steps):
            moving = length > enough  # each row stops on its own
            if not bool(moving.any()):
                break
            image = (direction @ hessian) * mask
            step = moving * length / _nonzero((direction * image).sum(1, keepdim=True))
            values, residual = values + step * direction, residual - step * image
            now = residual.square().sum(1, keepdim=True)
            direction, length = residual + now / _nonzero(length) * direction, now
        return values


def error(change: Tensor, hessian: Tensor) -> float:
    """‖X Δᵀ‖² of a change (d_out, d_in) of the weights, with the inputs' products."""
    return float(((change @ hessian) * change).sum())


def _normalised(products: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The damped Hessian with ones on its diagonal, and what its columns were divided by (d_in,)."""
    hessian = damped(products, damping)
    scale = hessian.diagonal().sqrt()
    return hessian / scale / scale[:, None], scale


def _growth(changes: int, kept: int, grown: bool) -> float | None:
    """The factor for ρ after so many changes of the support; None: nothing moves any more."""
    for share, factor in GROWTH:
        if changes > share * kept:
            return factor
    if grown:
        return 1.1 if changes else None
    return 1 / SHRINKS


def _nonzero(numbers: Tensor) -> Tensor:
    """A row whose error is zero moves no further."""
    return numbers.masked_fill(numbers == 0, 1.0)
