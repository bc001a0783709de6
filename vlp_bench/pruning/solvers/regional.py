"""Wanda++'s second half: a few steps that bring a pruned block back to what it gave when it was dense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat, check_counts, check_positive
from vlp_bench.pruning.layers import Layer, in_full, preserve_weights
from vlp_bench.pruning.solution import Solved, may_keep
from vlp_bench.pruning.statistics.block_gradients import BlockWatch
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.data_parallel import Relay
from vlp_bench.pruning.statistics.protocol import Sums
from vlp_bench.pruning.sweep import Solve, written_by_solvers

FADING, TINY = 0.99, 1e-8  # of RMSprop: what stays of the mean square, what is added to its root


@dataclass(frozen=True, kw_only=True)
class Regional:
    """Regional optimisation (Wanda++, Yang et al., Findings of ACL 2025) around any solver, block after block.

    Each round prunes the block as it is, then takes a step of RMSprop for every drawn batch, on the summed squared
    difference to what the block gave to the same inputs before. All its weights move, removed ones too, which the next
    round removes again or not; within a round they have the digits of float32 or more. The solver has the last word.
    The authors released no code: numbers are those of a public one. With `sweep=at_once` a block is held to what it
    gave in the dense model, whatever the blocks before it give now.

    Args:
        solve: finds masks, and new weights where it has any.
        rounds: how often.
        share: of the batches, drawn anew in each round, at least one.
        lr: of RMSprop; a weight moves by ten times as much in its first step.
        compat: "official" is the public code: within a round gradients add up from one batch to the next.
    """

    solve: Solve
    rounds: int = 5
    share: float = 0.25
    lr: float = 3e-7
    compat: Compat = "corrected"
    in_every_process: ClassVar[bool] = True  # each step changes the weights that the next batch meets

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_counts(rounds=self.rounds)
        check_positive(lr=self.lr)
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """The solver's answer to weights that were optimised, with their values."""
        layers, draws = calibration.layers, torch.Generator().manual_seed(calibration.seed)
        parameters, squares = written_by_solvers(calibration), Sums()
        with preserve_weights(layers):
            dense = outputs_of_blocks(calibration)
            drawn = max(1, round(self.share * len(dense)))
            for _ in range(self.rounds):
                self.solve(calibration.subset(layers), budgets).install(parameters)
                batches = torch.randperm(len(dense), generator=draws)[:drawn].tolist()
                self._follow(calibration, {number: dense[number] for number in batches}, squares)
            solved = self.solve(calibration.subset(layers), budgets)
            weights = {name: layers[name].weight.detach().masked_fill(~own, 0) for name, own in solved.masks.items()}
            weights |= solved.weights
        return Solved(solved.masks, weights, solved.biases, solved.permutations)

    def _follow(self, calibration: Calibration, dense: Mapping[int, list[Tensor]], squares: Sums) -> None:
        """A step for each of these batches, by their place, towards what their calls of blocks gave."""
        batch, call, added = 0, 0, Sums()
        exact = {name: in_full(layer.weight) for name, layer in calibration.layers.items()}

        def measure(layers: list[Layer], given: Tensor, counts: Tensor) -> None:
            nonlocal call
            if batch in dense:
                lost = torch.where(counts, given - dense[batch][call], 0).square().sum()
                self._step(layers, lost, exact, squares, added)
            call += 1

        for _ in BlockWatch(calibration, measure).through(_here(calibration)):
            batch, call = batch + 1, 0

    @torch.no_grad()
    def _step(self, layers: list[Layer], lost: Tensor, exact: Sums, squares: Sums, added: Sums) -> None:
        """RMSprop's, of the weights in `exact`; `squares` are mean squares so far, `added` the round's gradients."""
        asked = list(dict.fromkeys(layer.parameter for layer in layers))
        gradients = dict(zip(asked, torch.autograd.grad(lost, asked, allow_unused=True), strict=True))
        for layer in layers:
            if (found := gradients[layer.parameter]) is not None:
                gradient = layer.part_of(found).to(torch.promote_types(found.dtype, torch.float32))
                if self.compat == "official":
                    gradient = added[layer.name] = gradient + added.get(layer.name, 0)
                square = squares.setdefault(layer.name, torch.zeros_like(gradient)).mul_(FADING)
                square.addcmul_(gradient, gradient, value=1 - FADING)
                layer.weight.copy_(exact[layer.name].sub_(self.lr * gradient / (square.sqrt() + TINY)))

    def may_keep(self, layer: Layer, budget: int) -> range:
        """As the solver."""
        return may_keep(self.solve, layer, budget)


def outputs_of_blocks(calibration: Calibration) -> list[list[Tensor]]:
    """What the blocks of the layers give now, for every batch, in the order of their calls."""
    found, latest = list[list[Tensor]](), list[Tensor]()

    def measure(layers: list[Layer], given: Tensor, counts: Tensor) -> None:
        latest.append(given.detach().clone())

    for _ in BlockWatch(calibration, measure).through(_here(calibration)):
        found.append(latest.copy())
        latest.clear()
    return found


def _here(calibration: Calibration) -> Relay:
    """Every process runs every batch itself: weights change from one to the next."""
    device = next(iter(calibration.layers.values())).weight.device
    return Relay(lambda event: None, list(calibration.layers), device, shared=False)
