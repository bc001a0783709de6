"""A block of CHITA's least squares at first sight of its rows: its answer if its support stays, and whether it does.

The exact minimiser on a support does not depend on the steps before it, only the support does. The model's step, of
length t, leads from w to b = w - t a on the support S. In t everything about the block's own step from there is linear:
its residual Xw - Xb is r₀ + t r₁, its gradient p - t q. So a few sums and maxima, kept while the rows are gone through,
tell once t is known how long that step is, and bound by how much an entry outside of S could outgrow those inside.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vlp_bench.pruning.solvers.chita.block_problem import NEGLIGIBLE, linear_part, ridge

MARGIN = 1.01  # by which a bound must hold; what is closer is computed in full
CLEAR = 1e-4  # of p and t q together: of a gradient smaller than that little is known


class Outlook(NamedTuple):
    """What is kept of a block; of several blocks, with a dimension more in front.

    Attributes:
        along: (b,) the product of the rows with a on S.
        squares: (2,) |a|², everywhere and on S.
        slopes: (2, 2) inner products of p and q on S.
        curves: (2, 2) inner products of X times p and of X times q on S.
        witness: (4,) w, a, p and q where |w| is largest on S.
        rest: (4,) largest |w|, |a|, |p| and |q| outside of S.
    """

    along: Tensor
    squares: Tensor
    slopes: Tensor
    curves: Tensor
    witness: Tensor
    rest: Tensor

    @classmethod
    def of(cls, blocks: int, batches: int, device: torch.device) -> Outlook:
        """Room for that many blocks, in float64: small tensors, each alone, would keep memory from being reused."""
        shapes = [(batches,), (2,), (2, 2), (2, 2), (4,), (4,)]
        return cls(*(torch.empty(blocks, *shape, dtype=torch.float64, device=device) for shape in shapes))

    def put(self, number: int, block: Outlook) -> None:
        """Takes one block's place."""
        for room, own in zip(self, block, strict=True):
            room[number] = own

    def first(self, number: int) -> Outlook:
        """The first blocks alone."""
        return Outlook(*(room[:number] for room in self))

    def length(self, damping: float, share: float = 1.0) -> float | None:
        """t, the length of the whole model's step, from all its blocks; None: it may change the support.

        With a `share` of the blocks an estimate: products with the rows are as many times those of the share.
        """
        whole, inside = self.squares.sum(0).tolist()
        if whole**0.5 <= NEGLIGIBLE:
            return 0.0
        curvature = float(self.along.sum(0).square().sum()) / share + damping * inside
        t = inside / curvature if curvature > 0 else 0.0
        reached = (self.witness[:, 0] - t * self.witness[:, 1]).abs().max()
        return t if bool(reached >= MARGIN * (self.rest[:, 0] + t * self.rest[:, 1]).max()) else None

    def stays(self, t: float, damping: float) -> Tensor:
        """(blocks,) bool: after the model's step the block's own surely leaves the support as it is."""
        at = torch.tensor([1.0, -t], dtype=torch.float64, device=self.rest.device)
        square = (self.slopes @ at) @ at
        clear = square >= CLEAR * (self.slopes.diagonal(dim1=1, dim2=2) @ at.square())
        curvature = (self.curves @ at) @ at + damping * square
        own = torch.where(curvature > 0, square / curvature, 0.0)
        w, a, p, q = self.witness.unbind(1)
        reached = (w - t * a - own * (p - t * q)).abs()
        outside = own * (self.rest[:, 2] + t * self.rest[:, 3])
        return (clear & (reached >= MARGIN * outside)) | (self.squares[:, 0] <= NEGLIGIBLE**2)


def look(rows: Tensor, w: Tensor, images: float, support: Tensor, damping: float) -> tuple[Tensor, Outlook]:
    """The exact minimiser (n,) on the support, and what is to be known about steps.

    Args:
        rows: X (b, n).
        w: dense weights (n,).
        images: whose number a is the rows' sum over.
        support: S (n,) bool.
        damping: 2λ₂.
    """
    where, linear = support.nonzero().view(-1), linear_part(rows, images)
    columns, inside = rows.index_select(1, where), torch.stack([w[where], linear[where]])
    target, (known, along) = rows @ w, inside @ columns.t()
    back = torch.stack([target - known, along]) @ rows  # (2, n)
    gradient = back[:, where]  # p and q
    torch.sub(inside[1], gradient[0], out=gradient[0])
    gradient[1].add_(inside[1], alpha=damping)
    products = gradient @ columns.t()
    rest = torch.stack([w, linear, torch.sub(linear - back[0], w, alpha=damping), back[1]])
    largest = inside[0].abs().argmax()[None] if len(where) else where
    outlook = Outlook(
        along,
        torch.stack([linear @ linear, inside[1] @ inside[1]]),
        gradient @ gradient.t(),
        products @ products.t(),
        torch.cat([inside, gradient])[:, largest].sum(1),
        rest.abs_().index_fill_(1, where, 0.0).amax(1),
    )
    exact = columns.double()
    found = ridge(exact, inside[0].double(), linear_part(exact, images), target.double(), damping)
    return torch.zeros_like(w).index_copy_(0, where, found.to(w)), outlook
