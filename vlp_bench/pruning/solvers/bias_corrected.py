"""Any solver, and biases that make up for the mean of what is gone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.solution import Solved, may_keep
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.input_moments import InputMoments
from vlp_bench.pruning.sweep import Solve

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BiasCorrected:
    """b + (W - W')·μ, with μ the mean input: the mean output stays (FLAP, An et al., AAAI 2024, Eq. 7, for any mask).

    A layer without a bias, or whose readers have several, stays as the solver leaves it and is named in a warning.

    Args:
        solve: finds the masks, and new weights where it has any.
        compat: of the mean inputs (see `InputStatistic`).
    """

    solve: Solve
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """The solver's answer with new biases."""
        if calibration.revives:
            raise ValueError("biases can't be corrected while removed weights may return: use another schedule")
        solved = self.solve(calibration, budgets)
        names = {id(parameter): name for name, parameter in calibration.model.named_parameters()}
        biases, without = dict(solved.biases), []
        for name in solved.masks:
            layer = calibration.layers[name]
            if len(layer.biases) != 1:
                without.append(name)
                continue
            bias = layer.biases[0]
            moved = lost_output(layer, solved, calibration[InputMoments(self.compat)][name][1])
            biases[names[id(bias)]] = (bias.detach().double() + moved).to(bias.dtype)
        _tell(without)
        return replace(solved, biases=biases)

    def may_keep(self, layer: Layer, budget: int) -> range:
        """As the solver."""
        return may_keep(self.solve, layer, budget)

    def may_keep_in_all(self, total: int) -> range:
        """As the solver; any sum that its layers may keep where it says nothing."""
        own = getattr(self.solve, "may_keep_in_all", None)
        return range(sys.maxsize) if own is None else own(total)


def lost_output(layer: Layer, solved: Solved, mean: Tensor) -> Tensor:
    """(d_out,) float64: what the layer's output loses in the mean, with the mean of its inputs (d_in,)."""
    before, mask = layer.matrix.double(), layer.from_stored(solved.masks[layer.name])
    after = layer.from_stored(solved.weights[layer.name]).double() if layer.name in solved.weights else before
    return (before - after.masked_fill(~mask, 0)) @ mean


def _tell(without: Iterable[str]) -> None:
    names = list(without)
    if names:
        told = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
        log.warning("no bias of their own to correct: %s stay as the solver leaves them", told)
