"""NeuroAL's block step: how much denser the first blocks stay is what the model's own activations say (TMLR 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.allocation.budgets import grouped, kept_of, share_out, spread
from vlp_bench.pruning.checks import check_counts
from vlp_bench.pruning.layers import preserve_weights
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputNorms
from vlp_bench.pruning.sweep import Solve, block_by_block, blocks, written_by_solvers

WIDEST = 0.8  # the sparsity from which on the widest of the spreads is left out


@dataclass(frozen=True, kw_only=True)
class NeuroAL:
    """Densities fall linearly with depth (Cunegatti, Custode, Iacca, TMLR 2025); their spread is tried out.

    For each candidate the blocks are pruned one after the other, for a moment, and the lengths of every layer's inputs
    before and after their block was pruned are compared: Σ over layers of ‖a / Σa - a' / Σa'‖ / size of a. The least
    sum wins, of equal ones the first. Depth is counted within each modality: the published order is that of one tower.

    Args:
        solve: what prunes meanwhile.
        spreads: λ; the first block has 2λ more than the last, before they are cut at 0 and 1. From 80 % on without the
            last, as published.
        batches: how many are tried on (the paper: 8 samples).
    """

    solve: Solve
    spreads: Sequence[float] = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.15, 0.2, 0.25)
    batches: int = 1

    def __post_init__(self) -> None:
        check_counts(batches=self.batches)
        if not self.spreads or not all(0 <= spread < math.inf for spread in self.spreads):
            raise ValueError(f"spreads must be one or more numbers of at least 0, got {list(self.spreads)}")

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        few = calibration.first(self.batches)
        spreads = self.spreads[:-1] if sparsity >= WIDEST and len(self.spreads) > 1 else self.spreads
        depths = _depths(few)
        tried = [self._budgets(calibration, depths, width, sparsity) for width in spreads]
        return min(tried, key=lambda budgets: self.change(few, budgets)) if len(tried) > 1 else tried[0]

    def may_differ(self, calibration: Calibration, sparsity: float) -> bool:
        """Whether a modality has more than one block, and a spread is tried."""
        layers = list(calibration.layers.values())
        return max(self.spreads) > 0 and len(grouped(layers, "block")) > len(grouped(layers, "modality"))

    def change(self, calibration: Calibration, budgets: dict[str, int]) -> float:
        """How much the layers' inputs differ when their blocks are pruned to these budgets; weights are as before."""
        changes: list[float] = []

        def pruned(part: Calibration, own: dict[str, int]) -> Solved:
            before, solved = part[InputNorms()], self.solve(part, own)
            with preserve_weights(part.layers):  # for a moment: the sweep installs it again
                solved.install(written_by_solvers(calibration))
                after = part.subset(part.layers)[InputNorms()]
            changes.extend(relative_change(before[name], after[name]) for name in part.layers)
            return solved

        block_by_block(pruned, calibration, budgets)
        return sum(changes)

    def _budgets(
        self, calibration: Calibration, depths: dict[str, float], width: float, sparsity: float
    ) -> dict[str, int]:
        groups = grouped(calibration.layers.values(), "block")
        sizes = [sum(layer.size for layer in group) for group in groups]
        values = [-depths[group[0].name] for group in groups]
        kept = share_out(groups, spread(values, sizes, 2 * width, kept_of(calibration.total, sparsity)))
        return {name: kept[name] for name in calibration.layers}


def relative_change(before: Tensor, after: Tensor) -> float:
    """‖a / Σa - a' / Σa'‖ / size, of two lengths of features (d_in,); a layer that sees zeros has shares of zero."""
    tiny = torch.finfo(before.dtype).tiny
    return float((before / before.sum().clamp_min(tiny) - after / after.sum().clamp_min(tiny)).norm()) / len(before)


def _depths(calibration: Calibration) -> dict[str, float]:
    """By layer: 0 in its modality's first block, 1 in the last, in the order in which data reaches them."""
    towers: dict[str, list[list[str]]] = {}
    for names in blocks(calibration):
        towers.setdefault(calibration.layers[names[0]].place.modality, []).append(names)
    return {
        name: number / max(1, len(tower) - 1)
        for tower in towers.values()
        for number, names in enumerate(tower)
        for name in names
    }
