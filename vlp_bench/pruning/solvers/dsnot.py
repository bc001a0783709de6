"""DSnoT: exchanges removed and kept weights of a row until its mean output is nearly what it was."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat, check_counts, check_not_negative
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.selection.patterns import check_within
from vlp_bench.pruning.solution import Solved, may_keep
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.input_moments import InputMoments, RowVariances
from vlp_bench.pruning.statistics.inputs import InputNorms
from vlp_bench.pruning.sweep import Solve

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, kw_only=True)
class DSnoT:
    """Dynamic sparse no training (Zhang et al., ICLR 2024): a mask of any solver, improved row by row.

    With q_ij = w_ij·Σx_j a row has lost e_i = Σ q_ij over what is removed. Each cycle gives back the removed weight
    with the most q/variance of e's sign and removes, of the kept ones of the other sign, the one that Wanda values
    least. A weight moves at most once, rows keep their counts, and no weight changes.

    Args:
        start: the solver whose masks are improved; new weights of its own are dropped.
        within: "output", or n:m (as "2:4") where the masks of `start` are so: then the least in the same group goes.
        cycles: exchanges in a row, at most.
        threshold: a row rests when |e| is at most this share of the layer's mean |e|; official: at most this number.
        skip: layers with this word in their names stay as `start` has them; None: none.
        compat: "official": an exchange may turn the sign of e (but for n:m) or make |e| larger, and variances leave
            out what lies between rows. The released program's two pointers in each row, which run on after a row is
            done, are not repeated.
    """

    start: Solve
    within: str = "output"
    cycles: int = 50
    threshold: float = 0.1
    skip: str | None = None
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_within(self.within, ("output",))
        check_counts(cycles=self.cycles)
        check_not_negative(threshold=self.threshold)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks as stored, for the layers that have a budget."""
        masks = dict(self.start(calibration, budgets).masks)
        for name in masks:
            layer = calibration.layers[name]
            if self.skip is None or self.skip not in name:
                mask = self._improved(layer, calibration, layer.from_stored(masks[name]))
                masks[name] = layer.as_stored(mask)
        return Solved(masks, {})

    def may_keep(self, layer: Layer, budget: int) -> range:
        """As `start`."""
        return may_keep(self.start, layer, budget)

    def _improved(self, layer: Layer, calibration: Calibration, mask: Tensor) -> Tensor:
        moments, w = calibration[InputMoments(self.compat)][layer.name], layer.matrix.double()
        norms = calibration[InputNorms(self.compat)][layer.name]
        official = self.compat == "official"
        variance = calibration[RowVariances(self.compat)][layer.name] if official else moments[2]
        alive = calibration.alive.get(layer.name)
        return self.exchange(w * moments[0], variance, w.abs() * norms, mask, alive)

    def exchange(self, q: Tensor, variance: Tensor, wanda: Tensor, mask: Tensor, alive: Tensor | None = None) -> Tensor:
        """The mask (d_out, d_in) after all cycles.

        Args:
            q: (d_out, d_in) float64, what a weight adds to the mean output.
            variance: (d_in,) of the inputs.
            wanda: (d_out, d_in), what a kept weight is worth.
            mask: (d_out, d_in), where it starts.
            alive: (d_out, d_in); what an earlier step removed doesn't come back.
        """
        mask, lost = mask.clone(), (q * ~mask).sum(1)
        returning = ~mask if alive is None else ~mask & alive
        gain, leaving, first_sign = q / variance.clamp_min(TINY), mask.clone(), lost.sign()
        limit = self.threshold * (1.0 if self.compat == "official" else float(lost.abs().mean()))
        keeps_sign = self.compat == "corrected" or ":" in self.within
        active, rows = lost.abs() > limit, torch.arange(len(mask), device=mask.device)
        for _ in range(self.cycles):
            sign = lost.sign()[:, None]
            back = (gain * sign).masked_fill(~returning, -torch.inf).argmax(1)
            cost = wanda.masked_fill(~self._may_leave(leaving, q * sign, back), torch.inf)
            gone = cost.argmin(1)
            after = lost + q[rows, gone] - q[rows, back]
            active &= (lost.abs() > limit) & returning[rows, back] & cost[rows, gone].isfinite()
            if keeps_sign:
                active &= after.sign() == first_sign
            if self.compat == "corrected":
                active &= after.abs() < lost.abs()
            if not bool(active.any()):
                break
            own, back, gone = rows[active], back[active], gone[active]
            mask[own, back], mask[own, gone] = True, False
            returning[own, back] = leaving[own, gone] = False
            lost = torch.where(active, after, lost)
        return mask

    def _may_leave(self, leaving: Tensor, signed: Tensor, back: Tensor) -> Tensor:
        """(d_out, d_in): which kept weights can make room for the one of each row that comes back."""
        if ":" not in self.within:
            return leaving & (signed < 0)
        group = int(self.within.split(":")[1])
        places = torch.arange(leaving.shape[1], device=leaving.device) // group
        return leaving & (places == (back // group)[:, None])
