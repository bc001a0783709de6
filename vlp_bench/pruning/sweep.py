"""Sweeps: in what order the layers are solved."""

from __future__ import annotations

from collections.abc import Callable

from vlp_bench.pruning.calibration import Calibration
from vlp_bench.pruning.solution import Solved

Solve = Callable[[Calibration, dict[str, int]], Solved]  # (statistics, kept weights per layer) -> masks, weights
Sweep = Callable[[Solve, Calibration, dict[str, int]], Solved]


def at_once(solve: Solve, calibration: Calibration, budgets: dict[str, int]) -> Solved:
    """All layers from the statistics of the model as it is."""
    return solve(calibration, budgets)
