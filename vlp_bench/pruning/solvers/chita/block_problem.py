"""CHITA's least squares (Benbaki et al., ICML 2023): min ½‖X(v - w)‖² + aᵀv + λ₂‖v - w‖² with at most k entries.

X (b, n) are gradients, one row for each batch, a (n,) their sum over the number of images, w (n,) the dense weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.selection.thresholds import keep_largest, kept_per_layer

Part = Callable[[int], Tensor]  # vectors may come in parts; one is computed when it is needed
Objective = Callable[[Part], float]
Product = Callable[[Part], Tensor]
TRIALS, HALVINGS, SLACK = 10, 100, 1e-10
NEGLIGIBLE = 1e-8  # a whole whose linear part is no longer takes no step


def largest_of(
    v: Part, k: int, alive: Sequence[Tensor | None], *, memory: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Masks of the k largest |v| of all parts; what is gone comes last, and of equals the first wins.

    Args:
        memory: tensors like the parts, to be overwritten; without them |v| is in new memory whenever it is needed.
    """
    room = memory or [None] * len(alive)
    sizes = {str(i): lambda i=i: _sizes(v(i), alive[i], room[i]) for i in range(len(alive))}
    kept = {"0": k} if len(sizes) == 1 else kept_per_layer(sizes, [k])[0]
    return [keep_largest(size(), kept[i]) for i, size in sizes.items()]


def _sizes(b: Tensor, alive: Tensor | None, room: Tensor | None) -> Tensor:
    sizes = torch.abs(b, out=room)
    return sizes if alive is None else sizes.masked_fill_(~alive, -1.0)


@dataclass(frozen=True)
class Problem:
    """The least squares from the point b, in parts: of a model its layers, of a block the block alone.

    Args:
        b: where the step begins, a 1-D tensor per part.
        gradient: the same.
        product: v -> Xv (b,).
        objective: v -> the value to be minimised.
        damping: 2λ₂.
        alive: per part what no earlier step removed; None: all.
    """

    b: Sequence[Tensor]
    gradient: Sequence[Tensor]
    product: Product
    objective: Objective
    damping: float
    alive: Sequence[Tensor | None]

    def moved(self, length: float) -> Part:
        """b after a step of that length, on all entries."""
        return lambda i: self.b[i] - length * self.gradient[i] if length else self.b[i]

    def step(self, support: list[Tensor], compat: Compat = "corrected") -> Step:
        """One projected step to at most as many entries as b has.

        It is exact on the support of b. If another entry would outgrow it all, shorter steps are tried that may change
        the support, as long as they improve the objective. If none does, the support and its values stay; the released
        code erases everything (`compat="official"`). Without curvature there is no step.

        Args:
            support: masks of the entries of b that count, its largest.
            compat: what happens if the search fails.
        """
        chosen = lambda i: self.gradient[i] * support[i]  # noqa: E731
        square = sum(float(chosen(i).double().square().sum()) for i in range(len(self.b)))
        curvature = float(self.product(chosen).double().square().sum()) + self.damping * square
        length = square / curvature if curvature > 0 else 0.0
        if self._stays(length, support):
            return Step(self, length, support)
        return self._search(length, support, compat)

    def _stays(self, length: float, support: Sequence[Tensor]) -> bool:
        """Whether the largest entry after the step is one of the support."""
        inside = outside = -1.0
        for i, mask in enumerate(support):
            moved = self.moved(length)(i).abs()
            inside = max(inside, float(torch.where(mask, moved, -1.0).max()))
            outside = max(outside, float(moved.masked_fill_(mask, -1.0).max()))
        return min(inside, outside) < 0 or inside >= outside - SLACK

    def _search(self, length: float, support: list[Tensor], compat: Compat) -> Step:
        k = sum(int(torch.count_nonzero(mask)) for mask in support)
        for _ in range(HALVINGS):
            length /= 2
            if self._stays(length, support):
                break
        found = Step(self, 0.0, support, erased=compat == "official")
        best = self.objective(Step(self, 0.0, support))
        for _ in range(TRIALS):
            trial = Step(self, length, largest_of(self.moved(length), k, self.alive))
            value = self.objective(trial)
            if not value < best:
                break
            found, best, length = trial, value, length * 2
        return found


@dataclass(frozen=True)
class Step:
    """Where a step leads: called with the number of a part, its values.

    Attributes:
        length: along the gradient.
        support: masks of the entries that aren't zero.
        erased: nothing is left, as the released code has it after a line search that fails.
    """

    problem: Problem
    length: float
    support: list[Tensor]
    erased: bool = False

    def __call__(self, i: int) -> Tensor:
        if self.erased:
            return torch.zeros_like(self.problem.b[i])
        return self.problem.moved(self.length)(i) * self.support[i]


def linear_part(rows: Tensor, images: float) -> Tensor:
    """a (n,): the sum of the gradients X (b, n) over the number of images, in the type of the rows."""
    return rows.sum(0).mul_(1 / images)


def ridge(columns: Tensor, w: Tensor, linear: Tensor, target: Tensor, damping: float) -> Tensor:
    """The exact minimiser (n,) on a support: (CᵀC + 2λ₂) v = Cᵀy + 2λ₂ w - a.

    Args:
        columns: C (b, n), the columns of X on the support.
        w, linear: w and a (n,) on the support.
        target: y (b,), the product of all columns with the dense weights.
        damping: 2λ₂.
    """
    batches, n = columns.shape
    if batches < n:  # b unknowns u = y - Cv: (CCᵀ + 2λ₂) u = 2λ₂ (y - Cw) + Ca, and 2λ₂ (v - w) = Cᵀu - a
        known, product = torch.stack([w, linear]) @ columns.t()
        return w + (columns.t() @ _solved(columns, damping * (target - known) + product, damping) - linear) / damping
    return _solved(columns.t(), columns.t() @ target + damping * w - linear, damping)


def _solved(factor: Tensor, right: Tensor, damping: float) -> Tensor:
    """(FFᵀ + damping)⁻¹ right. Raises ValueError where the damping is lost beside the gradients."""
    matrix = factor @ factor.t()
    matrix.diagonal().add_(damping)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise ValueError(
            f"CHITA can't solve for weights whose gradients reach {float(factor.abs().max()):.2g}, beside which its "
            "ridge vanishes: raise ridge, or look for weights that are out of all proportion"
        )
    return torch.cholesky_solve(right[:, None], lower)[:, 0]


def solve_block(
    rows: Tensor,
    b: Tensor,
    w: Tensor,
    images: float,
    support: Tensor,
    damping: float,
    alive: Tensor | None,
    compat: Compat,
) -> tuple[Tensor, Tensor]:
    """Values (n,) and support of one block: a step, then the exact minimiser on its support.

    rows X (b, n), b the values so far and the support of its largest, w the dense ones, the linear part of that many
    images. The step, which decides on the support alone, and the target are computed in the type they come in, a search
    in float64: the first of its steps may improve by less than float32 tells. So is the minimiser with its linear part:
    rounded, that is no combination of rows, and what is none is divided by the damping. Official has float32 in all.
    """
    where = support.nonzero().view(-1)
    columns = rows.index_select(1, where)
    target, linear = rows @ w, linear_part(rows, images)
    if float(linear.norm()) > NEGLIGIBLE:
        gradient = torch.addmv(linear - damping * (w - b), rows.t(), target - columns @ b[where], alpha=-1)
        length = _kept_support(columns, b[where], gradient, where, damping)
        if length is not None:
            b = b.index_add(0, where, gradient[where], alpha=-length)
        elif compat == "corrected" and rows.dtype != torch.float64:
            exact = rows.double(), b.double(), w.double()
            values, support = solve_block(*exact, images, support, damping, alive, compat)
            return values.to(w), support
        else:
            found = _searched(rows, b, w, gradient, linear, support, damping, alive, compat)
            b, support = found(0), found.support[0]
            where = support.nonzero().view(-1)
            columns = rows.index_select(1, where)
        if compat == "official" and not b.any():
            return b, support
    if compat == "official":
        inside = as_released(rows, b, w, linear, where, damping)
    else:
        exact = columns.double()
        inside = ridge(exact, w[where].double(), linear_part(exact, images), target.double(), damping)
    return torch.zeros_like(w).index_copy_(0, where, inside.to(w)), support


def _kept_support(columns: Tensor, b: Tensor, gradient: Tensor, where: Tensor, damping: float) -> float | None:
    """`Problem.step` for one block whose b, given on its support, is zero elsewhere; None: a search is due."""
    inside = gradient[where]
    square = float(inside.double().square().sum())
    curvature = float((columns @ inside).double().square().sum()) + damping * square
    length = square / curvature if curvature > 0 else 0.0
    reached = float((b - length * inside).abs().max())
    outside = length * float(gradient.abs().index_fill_(0, where, 0.0).max())
    return length if len(where) == len(gradient) or reached >= outside - SLACK else None


def _searched(
    rows: Tensor,
    b: Tensor,
    w: Tensor,
    gradient: Tensor,
    linear: Tensor,
    support: Tensor,
    damping: float,
    alive: Tensor | None,
    compat: Compat,
) -> Step:
    def objective(v: Part) -> float:
        off = v(0) - w
        return float((rows @ off).square().sum() / 2 + linear @ v(0) + damping / 2 * off.square().sum())

    problem = Problem([b], [gradient], lambda v: rows @ v(0), objective, damping, [alive])
    return problem.step([support], compat)


def as_released(rows: Tensor, b: Tensor, w: Tensor, linear: Tensor, where: Tensor, damping: float) -> Tensor:
    """What `ridge` gives on the support `where`, rounded as in the released program.

    That program sorts the support by size, largest first, and rounds all products to float32 before it solves in
    float64: weights change by up to 1e-3 of their size. With numpy's products of matrices that lie column after column
    in memory, as there, the answers agree bit for bit on the same kind of processor.
    """
    order = where[b[where].abs().argsort(descending=True, stable=True)].cpu().numpy()
    by_column = rows.t().contiguous().cpu().numpy()
    known, first = w.cpu().numpy(), linear[order].cpu().numpy()
    x, target, double = by_column[order].T, by_column.T @ known, by_column.dtype.type(damping)
    right = x.T @ target + double * known[order] - first
    batches, n = x.shape
    if batches < n:
        small = np.linalg.solve(np.eye(batches) + x @ x.T / double, x @ right)
        found = right / double - x.T @ small / double**2
    else:
        found = np.linalg.solve(double * np.eye(n) + x.T @ x, right)
    inside = np.zeros(len(w))
    inside[order] = found
    return torch.from_numpy(inside).to(w)[where]
