"""LAMP's budgets: one threshold on w_u² / Σ_{v ≥ u} w_v² (Lee et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import Score, ascending_shares_of_rest, lamp
from vlp_bench.pruning.selection.across_layers import Sample, in_ascending_order, pick
from vlp_bench.pruning.statistics.calibration import Calibration

DEVIATIONS = 24.0  # the sample's sums of squares are estimates too


@dataclass(frozen=True)
class Lamp(GlobalThreshold):
    """The budgets of `GlobalThreshold(lamp)`, in a fraction of its time.

    Within a layer the score grows with |w|, and of equal weights the later has the larger one. So budgets need a
    layer's scores in ascending order only, never at their places, and `KeepTop(magnitude, ties="last")` gives the mask.
    """

    score: Score = lamp

    def _scores(self, layer: Layer, calibration: Calibration) -> Tensor:
        scores = ascending_shares_of_rest(_ascending_sizes(layer.matrix))
        alive = None if self.compat == "official" else calibration.alive.get(layer.name)
        if alive is not None:  # what an earlier step removed is zero, and comes last
            scores[: alive.numel() - int(torch.count_nonzero(alive))] = -torch.inf
        return scores

    def _sample(self, group: list[Layer], calibration: Calibration) -> Sample | None:
        """Of each layer some weights, with the scores they would have if the rest were like them."""
        picked = []
        for layer in group:
            sizes = _ascending_sizes(pick(layer.matrix))
            picked.append(ascending_shares_of_rest(sizes).float() * (len(sizes) / max(1, layer.size)))
        return Sample.of(picked, [layer.size for layer in group], DEVIATIONS)


def _ascending_sizes(w: Tensor) -> Tensor:
    """(n,) |w| of a layer or of some of its weights."""
    return in_ascending_order(w.abs().reshape(-1))
