"""CHITA's least squares (Benbaki et al., ICML 2023): min ½‖X(v - w)‖² + aᵀv + λ₂‖v - w‖² with at most k entries.

X (b, n) are gradients, one row for each batch, a (n,) their sum over the number of images, w (n,) the dense weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.thresholds import keep_largest

Objective = Callable[[Tensor], float]
Product = Callable[[Tensor], Tensor]
TRIALS, HALVINGS, SLACK = 10, 100, 1e-10


def largest(b: Tensor, k: int, alive: Tensor | None) -> Tensor:
    """Mask (n,) of the k largest |b|; what is gone comes last, and of equals the first wins."""
    sizes = b.abs()
    return keep_largest(sizes if alive is None else sizes.masked_fill(~alive, -1.0), k)


def step(
    b: Tensor,
    gradient: Tensor,
    k: int,
    *,
    product: Product,
    objective: Objective,
    damping: float,
    alive: Tensor | None = None,
    compat: Compat = "corrected",
) -> tuple[Tensor, Tensor]:
    """One projected step from b (n,) along the gradient (n,): new values and the mask of k entries they live on.

    The step is exact on the k largest entries. If another entry would outgrow them all, shorter steps are tried that
    may change the support, as long as they improve the objective. If none does, the support and its values stay; the
    released code erases everything (`compat="official"`). Without curvature there is no step.

    Args:
        product: v -> Xv (b,).
        objective: v -> the value to be minimised.
        damping: 2λ₂.
    """
    support = largest(b, k, alive)
    inside = gradient * support
    square = float(inside.double().square().sum())
    curvature = float(product(inside).double().square().sum()) + damping * square
    length = square / curvature if curvature > 0 else 0.0
    if _stays(b, gradient, length, support):
        return (b - length * gradient) * support, support
    return _search(b, gradient, length, k, support, objective, alive, compat)


def _stays(b: Tensor, gradient: Tensor, length: float, support: Tensor) -> bool:
    """Whether the largest entry after the step is one of the support."""
    moved = (b - length * gradient).abs()
    if support.all() or not support.any():
        return True
    return bool(moved[support].max() >= moved[~support].max() - SLACK)


def _search(
    b: Tensor,
    gradient: Tensor,
    length: float,
    k: int,
    support: Tensor,
    objective: Objective,
    alive: Tensor | None,
    compat: Compat,
) -> tuple[Tensor, Tensor]:
    for _ in range(HALVINGS):
        length /= 2
        if _stays(b, gradient, length, support):
            break
    values, best, found = b * support, objective(b * support), None
    for _ in range(TRIALS):
        moved = b - length * gradient
        mask = largest(moved, k, alive)
        value = objective(moved * mask)
        if not value < best:
            break
        found, best, length = (moved * mask, mask), value, length * 2
    if found is None:
        return (torch.zeros_like(b), support) if compat == "official" else (values, support)
    return found


def ridge(rows: Tensor, w: Tensor, linear: Tensor, target: Tensor, damping: float) -> Tensor:
    """The exact minimiser (n,) float64 on a support: (XᵀX + 2λ₂) v = Xᵀy + 2λ₂ w - a.

    Args:
        rows: X (b, n) float64, the columns of the support.
        w, linear: w and a (n,) on the support.
        target: y (b,), the product of all columns with the dense weights.
        damping: 2λ₂.
    """
    right = rows.t() @ target + damping * w - linear
    batches, n = rows.shape
    if batches < n:  # Woodbury: a system of b unknowns
        small = torch.linalg.cholesky(rows @ rows.t() + damping * torch.eye(batches).to(rows))
        return (right - rows.t() @ torch.cholesky_solve((rows @ right)[:, None], small)[:, 0]) / damping
    small = torch.linalg.cholesky(rows.t() @ rows + damping * torch.eye(n).to(rows))
    return torch.cholesky_solve(right[:, None], small)[:, 0]


def solve_block(
    rows: Tensor,
    b: Tensor,
    w: Tensor,
    linear: Tensor,
    k: int,
    damping: float,
    alive: Tensor | None,
    compat: Compat,
) -> tuple[Tensor, Tensor]:
    """Values (n,) float64 and support of one block: a step, then the exact minimiser on its support.

    rows (b, n), b the values so far, w the dense ones, linear a (n,), all float64.
    """
    target = rows @ w
    support = largest(b, k, alive)
    if float(linear.norm()) > 1e-8:
        gradient = linear - rows.t() @ (target - rows @ b) - damping * (w - b)

        def objective(v: Tensor) -> float:
            off = v - w
            return float((rows @ off).square().sum() / 2 + linear @ v + damping / 2 * off.square().sum())

        b, support = step(
            b,
            gradient,
            k,
            product=lambda v: rows @ v,
            objective=objective,
            damping=damping,
            alive=alive,
            compat=compat,
        )
        if compat == "official" and not b.any():
            return b, support
    values = torch.zeros_like(w)
    values[support] = ridge(rows[:, support], w[support], linear[support], target, damping)
    return values, support
