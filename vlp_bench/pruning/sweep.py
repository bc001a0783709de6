"""Sweeps: in what order the layers are solved."""

from __future__ import annotations

from collections.abc import Callable

from vlp_bench.pruning.calibration import Calibration
from vlp_bench.pruning.layers import restoring
from vlp_bench.pruning.solution import Solved

Solve = Callable[[Calibration, dict[str, int]], Solved]  # (statistics, kept weights per layer) -> masks, weights
Sweep = Callable[[Solve, Calibration, dict[str, int]], Solved]


def at_once(solve: Solve, calibration: Calibration, budgets: dict[str, int]) -> Solved:
    """All layers from the statistics of the model as it is."""
    return solve(calibration, budgets)


def block_by_block(solve: Solve, calibration: Calibration, budgets: dict[str, int]) -> Solved:
    """One block after the other, in the order in which data flows; each sees what the pruned blocks before it give.

    The whole model runs up to each block: every block meets its own arguments (position bias, cross-attention, masks),
    and a tied weight all the inputs of all its readers. One pass over the data per block. The weights are as before
    afterwards.
    """
    masks, weights = {}, {}
    with restoring(calibration.layers):
        for names in blocks(calibration):
            part = calibration.about(names)
            solved = solve(part, {name: budgets[name] for name in names if name in budgets})
            solved.install({name: layer.weight for name, layer in calibration.layers.items()})
            masks |= solved.masks
            weights |= solved.weights
            calibration.data_hash = part.data_hash or calibration.data_hash
    return Solved({name: masks[name] for name in calibration.layers if name in masks}, weights)


def blocks(calibration: Calibration) -> list[list[str]]:
    """The layers of every block, blocks in the order in which the first batch reaches them."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in calibration.order() if calibration.batches is not None else calibration.layers:
        place = calibration.layers[name].place
        found.setdefault((place.modality, place.block), []).append(name)
    return list(found.values())
