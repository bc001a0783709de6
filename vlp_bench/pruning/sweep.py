"""Sweeps: in what order the layers are solved."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from vlp_bench.pruning.layers import preserve_weights
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.block_sequential import ControlFlowChanged, Resuming
from vlp_bench.pruning.statistics.calibration import Calibration

log = logging.getLogger(__name__)
Solve = Callable[[Calibration, dict[str, int]], Solved]  # (statistics, kept weights per layer) -> masks, weights
Sweep = Callable[[Solve, Calibration, dict[str, int]], Solved]


def at_once(solve: Solve, calibration: Calibration, budgets: dict[str, int]) -> Solved:
    """All layers from the statistics of the model as it is."""
    return solve(calibration, budgets)


def is_at_once(sweep: Sweep) -> bool:
    """Whether a sweep is `at_once`, also as a configuration builds it."""
    return getattr(sweep, "func", sweep) is at_once


def block_by_block(solve: Solve, calibration: Calibration, budgets: dict[str, int]) -> Solved:
    """One block after the other, in the order in which data flows; each sees what the pruned blocks before it give.

    Every block meets its own arguments (position bias, cross-attention, masks), and a tied weight all the inputs of all
    its readers. One pass over the data per block, which begins at the last block that was pruned and ends behind the
    block itself: each is computed twice, as long as no later module shares its weights. The weights are as before
    afterwards.
    """
    if calibration.batches is None:
        return _in_turn(solve, calibration, budgets, blocks(calibration), None)
    resuming = Resuming(calibration.adapter, calibration.model, calibration.layers)
    explorer = calibration.subset(calibration.layers, adapter=resuming)
    with resuming.exploring():
        found = blocks(explorer)
    try:
        return _in_turn(solve, calibration, budgets, found, resuming)
    except ControlFlowChanged as reason:
        said = f"batches run through the model in different ways ({reason}): every pass is a whole one"
        warn_once(log, calibration.model, said, key="different ways")
        return _in_turn(solve, calibration, budgets, found, None)


def _in_turn(
    solve: Solve,
    calibration: Calibration,
    budgets: dict[str, int],
    found: list[list[str]],
    resuming: Resuming | None,
) -> Solved:
    masks, weights, biases, permutations = {}, {}, {}, {}
    with preserve_weights(calibration.layers):
        for names in found:
            part = calibration.subset(names, adapter=resuming, before_sweep=calibration)
            if resuming is not None:
                resuming.next_pass(names)
            solved = solve(part, {name: budgets[name] for name in names if name in budgets})
            solved.install(written_by_solvers(calibration))
            masks |= solved.masks
            weights |= solved.weights
            biases |= solved.biases
            permutations |= solved.permutations
    masks = {name: masks[name] for name in calibration.layers if name in masks}
    return Solved(masks, weights, biases, permutations)


def written_by_solvers(calibration: Calibration) -> dict[str, Tensor]:
    """The prunable weights and all biases, by name."""
    vectors: dict[str, Tensor] = {
        name: parameter for name, parameter in calibration.model.named_parameters() if parameter.ndim == 1
    }
    return vectors | {name: layer.weight for name, layer in calibration.layers.items()}


def blocks(calibration: Calibration) -> list[list[str]]:
    """The layers of every block, blocks in the order in which the first batch reaches them."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in calibration.order() if calibration.batches is not None else calibration.layers:
        place = calibration.layers[name].place
        found.setdefault((place.modality, place.block), []).append(name)
    return list(found.values())
