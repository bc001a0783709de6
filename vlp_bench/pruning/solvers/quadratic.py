"""CHITA's least squares (Benbaki et al., ICML 2023): min ½‖X(v - w)‖² + aᵀv + λ₂‖v - w‖² with at most k entries.

X (b, n) are gradients, one row for each batch, a (n,) their sum over the number of images, w (n,) the dense weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.thresholds import keep_largest, kept_per_layer

Part = Callable[[int], Tensor]  # vectors may come in parts; one is computed when it is needed
Objective = Callable[[Part], float]
Product = Callable[[Part], Tensor]
TRIALS, HALVINGS, SLACK = 10, 100, 1e-10


def largest(b: Tensor, k: int, alive: Tensor | None) -> Tensor:
    """Mask (n,) of the k largest |b|; what is gone comes last, and of equals the first wins."""
    return keep_largest(_sizes(b, alive), k)


def _sizes(b: Tensor, alive: Tensor | None) -> Tensor:
    return b.abs() if alive is None else b.abs().masked_fill_(~alive, -1.0)


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

    def largest(self, v: Part, k: int) -> list[Tensor]:
        """Masks of the k largest |v| of all parts."""
        if len(self.b) == 1:
            return [largest(v(0), k, self.alive[0])]
        sizes = {str(i): lambda i=i: _sizes(v(i), self.alive[i]) for i in range(len(self.b))}
        (kept,) = kept_per_layer(sizes, [k])
        return [keep_largest(size(), kept[i]) for i, size in sizes.items()]

    def step(self, k: int, compat: Compat = "corrected") -> Step:
        """One projected step to at most k entries.

        It is exact on the k largest entries of b. If another entry would outgrow them all, shorter steps are tried that
        may change the support, as long as they improve the objective. If none does, the support and its values stay;
        the released code erases everything (`compat="official"`). Without curvature there is no step.
        """
        support = self.largest(self.moved(0.0), k)
        inside = [g * s for g, s in zip(self.gradient, support, strict=True)] if len(self.b) == 1 else None
        chosen = (lambda i: inside[i]) if inside else (lambda i: self.gradient[i] * support[i])
        square = sum(float(chosen(i).double().square().sum()) for i in range(len(self.b)))
        curvature = float(self.product(chosen).double().square().sum()) + self.damping * square
        length = square / curvature if curvature > 0 else 0.0
        if self._stays(length, support):
            return Step(self, length, support)
        return self._search(length, k, support, compat)

    def _stays(self, length: float, support: Sequence[Tensor]) -> bool:
        """Whether the largest entry after the step is one of the support."""
        inside = outside = -1.0
        for i, mask in enumerate(support):
            moved = self.moved(length)(i).abs()
            inside = max(inside, float((moved * mask).max()) if mask.any() else -1.0)
            outside = max(outside, float(moved.masked_fill_(mask, -1.0).max()))
        return min(inside, outside) < 0 or inside >= outside - SLACK

    def _search(self, length: float, k: int, support: list[Tensor], compat: Compat) -> Step:
        for _ in range(HALVINGS):
            length /= 2
            if self._stays(length, support):
                break
        found = Step(self, 0.0, support, erased=compat == "official")
        best = self.objective(Step(self, 0.0, support))
        for _ in range(TRIALS):
            trial = Step(self, length, self.largest(self.moved(length), k))
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

    rows (b, n), b the values so far, w the dense ones, linear a (n,). The step, which decides on the support alone, and
    the target are computed in the type they come in, the minimiser in float64.
    """
    target, reached = (rows @ torch.stack([w, b], dim=1)).unbind(1)
    if float(linear.norm()) > 1e-8:
        gradient = torch.addmv(linear - damping * (w - b), rows.t(), target - reached, alpha=-1)

        def objective(v: Part) -> float:
            off = v(0) - w
            return float((rows @ off).square().sum() / 2 + linear @ v(0) + damping / 2 * off.square().sum())

        problem = Problem([b], [gradient], lambda v: rows @ v(0), objective, damping, [alive])
        step = problem.step(k, compat)
        support = step.support[0]
        if compat == "official" and not step(0).any():
            return step(0), support
    else:
        support = largest(b, k, alive)
    where = support.nonzero().view(-1)
    columns = rows.index_select(1, where).double()
    inside = ridge(columns, w[where].double(), linear[where].double(), target.double(), damping)
    return torch.zeros_like(w, dtype=torch.float64).index_copy_(0, where, inside), support
