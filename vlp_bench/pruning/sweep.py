"""Sweeps: in what order the layers are solved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from vlp_bench.models.offloading import offloaded, present
from vlp_bench.pruning.layers import preserve_weights
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.block_sequential import ControlFlowChanged, Missing, Resuming
from vlp_bench.pruning.statistics.calibration import Calibration

log = logging.getLogger(__name__)
PARTS = ("masks", "weights", "biases", "permutations")  # of what a solver gives
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
    its readers. Each block is computed twice, as long as no later module shares its weights: dense, for what reaches
    its weights, and pruned, for what comes after it. Its weights are as before as soon as nothing reads them any more.
    """
    if calibration.batches is None:
        return whole_passes(solve, calibration, budgets, blocks(calibration))
    if not calibration.is_pruned:
        calibration.reach_experts()
    model, layers = calibration.model, calibration.layers
    resuming = Resuming(calibration.adapter, model, layers, keeps_all=calibration.shared)
    explorer = calibration.subset(layers, adapter=resuming)
    with resuming.exploring():
        found = blocks(explorer)
    if resuming.leaves_uncalled():
        with resuming.exploring():
            blocks(explorer)
    try:
        return _Resumed(solve, calibration, budgets, found, resuming).solved()
    except ControlFlowChanged as reason:
        if offloaded(model) is not None:
            raise ValueError(
                f"batches run through the model in different ways ({reason}), which none that is offloaded can: load it"
            ) from None
        said = f"batches run through the model in different ways ({reason}): every pass is a whole one"
        warn_once(log, model, said, key="different ways")
        return whole_passes(solve, calibration, budgets, found)


class _Resumed:
    """A sweep whose passes go on where the last one stopped."""

    def __init__(
        self,
        solve: Solve,
        calibration: Calibration,
        budgets: dict[str, int],
        found: list[list[str]],
        resuming: Resuming,
    ) -> None:
        self.solve, self.calibration, self.budgets, self.found = solve, calibration, budgets, found
        self.resuming = resuming
        self.answers: list[Solved] = []

    def solved(self) -> Solved:
        """Of all blocks. What was let go of and is asked for is made again, from the first block on."""
        while True:
            try:
                with ExitStack() as later:
                    for number in range(len(self.found)):
                        self._block(number, later)
                return _together(self.answers, self.calibration)
            except Missing as missing:
                log.info("a second time through the first blocks: %s", missing)
                self.resuming.again(missing)

    def _block(self, number: int, later: ExitStack) -> None:
        """Solves a block, if it isn't yet, and runs it pruned; `later` gives its weights back if they are needed."""
        names, layers = self.found[number], self.calibration.layers
        part = self.calibration.subset(names, adapter=self.resuming, before_sweep=self.calibration)
        part.is_pruned = self.calibration.is_pruned or number > 0
        with ExitStack() as undo:
            undo.enter_context(present(self.calibration.model, names))
            if number == len(self.answers):
                self.resuming.look_at(names)
                own = {name: self.budgets[name] for name in names if name in self.budgets}
                self.answers.append(self._waiting(self.solve(part, own)))
            if number + 1 == len(self.found):
                return
            undo.enter_context(preserve_weights({name: layers[name] for name in names if not self._is_lost(name)}))
            self.answers[number].install(written_by_solvers(part))
            self.resuming.finish(names)
            part.run_through()
            if not self.resuming.is_over(names):
                later.push(undo.pop_all())

    def _is_lost(self, name: str) -> bool:
        """Whether what is written to a weight goes with it, as its block leaves the device."""
        own = offloaded(self.calibration.model)
        return own is not None and own.leaves(name)

    def _waiting(self, solved: Solved) -> Solved:
        """An answer; for an offloaded model it waits on the processor, so that no device has to hold it all."""
        if offloaded(self.calibration.model) is None:
            return solved
        return Solved(*({n: t.cpu() for n, t in getattr(solved, own).items()} for own in PARTS))


def whole_passes(solve: Solve, calibration: Calibration, budgets: dict[str, int], found: list[list[str]]) -> Solved:
    """Block after block, each from passes through the whole model."""
    answers: list[Solved] = []
    with preserve_weights(calibration.layers):
        for names in found:
            part = calibration.subset(names, before_sweep=calibration)
            part.is_pruned = calibration.is_pruned or bool(answers)
            answers.append(solve(part, {name: budgets[name] for name in names if name in budgets}))
            answers[-1].install(written_by_solvers(part))
    return _together(answers, calibration)


def _together(answers: list[Solved], calibration: Calibration) -> Solved:
    whole = Solved({}, {})
    for solved in answers:
        for own in PARTS:
            getattr(whole, own).update(getattr(solved, own))
    masks = {name: whole.masks[name] for name in calibration.layers if name in whole.masks}
    return replace(whole, masks=masks)


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
