"""N:M among inputs in another order (RIA's channel permutation, Zhang et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.scoring.cache import evaluate
from vlp_bench.pruning.selection.channels import assigned, dealt, kept_score
from vlp_bench.pruning.selection.thresholds import keep_largest_per_group
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration


@dataclass(frozen=True)
class PermutedGroups(KeepTop):
    """n of every m inputs of every output survive, once the inputs are in an order that keeps more of the score.

    Weights stay where they are: `mask[:, permutation]` is n:m, the mask itself isn't. A kernel for n:m needs the inputs
    in that order, `x[..., permutation]`. Where no order is better than the layer's own, that is kept.

    Args:
        within: n:m.
        assign: improve the order by assignments, place by place; else the inputs are only dealt out.
    """

    assign: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.within, str) or ":" not in self.within:
            raise ValueError(f"within must be n:m (as 2:4) where inputs are permuted, got {self.within!r}")

    def for_all(self, calibration: Calibration, budgets: Sequence[dict[str, int]]) -> list[Solved]:
        """Masks as stored, and each layer's order of inputs, for the layers that have a budget."""
        return [self._solved(calibration, own) for own in budgets]

    def _solved(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        masks, orders = {}, {}
        for name, budget in budgets.items():
            layer = calibration.layers[name]
            scores = evaluate(self.score, layer, calibration, self.compat)
            mask, orders[name] = self._permuted(scores, self._in_groups(layer, scores, str(self.within), budget))
            masks[name] = layer.as_stored(mask)
        return Solved(masks, {}, permutations=orders)

    def _permuted(self, scores: Tensor, plain: Tensor) -> tuple[Tensor, Tensor]:
        """The mask, and the order of inputs (d_in,); the plain mask in the layer's own order if that is as good."""
        n, m = map(int, str(self.within).split(":"))
        left = scores.masked_fill(scores == -torch.inf, 0)  # what an earlier step has removed is worth nothing
        order = dealt(left, m)
        order = assigned(left, order, n, m) if self.assign else order
        if kept_score(left[:, order], n, m) <= kept_score(left, n, m):
            return plain, torch.arange(len(order), device=order.device)
        return keep_largest_per_group(scores[:, order], n, m)[:, order.argsort()], order
