"""How many units each group keeps, as weights of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.allocation.budgets import kept_of
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.structured.groups import PrunableGroup, Units
from vlp_bench.pruning.structured.scores import UnitScore


@dataclass(frozen=True, kw_only=True)
class UnitBudgets:
    """The least units go until the sparsity is reached: never less is removed, and little more (see `between`).

    Weights in no unit stay, and one unit of each group. A unit costs its prunable weights.

    Args:
        score: larger survives.
        between: "model": all units of the model compete; less than one unit too much goes. "group": every group loses
            the same share, so that groups that are alike stay so; less than one unit of each goes too much.
        compat: is handed to the score.
    """

    score: UnitScore
    between: str = "model"
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_choice("between", self.between, ("model", "group"))
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights by layer.

        Raises:
            ValueError: the units hold fewer weights than should go.
        """
        groups = calibration[Units()]
        ranks = [self._ranks(group, calibration) for group in groups]
        gone = _first_to_go(groups, ranks, _asked(calibration, sparsity), together=self.between == "group")
        budgets = {name: layer.size for name, layer in calibration.layers.items()}
        for group, count in zip(groups, gone, strict=True):
            for part in group.parts:
                budgets[part.layer.name] -= count * part.layer.size // group.units
        return budgets

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """Less than asked by less than the dearest unit, or by less than one of each group."""
        kept = calibration.total - _asked(calibration, sparsity)
        costs = [group.cost for group in calibration[Units()]]
        most = max(costs) if self.between == "model" else sum(costs)
        return range(max(0, kept - most + 1), kept + 1)

    def _ranks(self, group: PrunableGroup, calibration: Calibration) -> Tensor:
        """What the units of all groups are compared by, ascending."""
        if self.between == "model":
            return self.score(group, calibration).double().cpu().sort().values
        return torch.arange(1, group.units + 1).double() / group.units


def _asked(calibration: Calibration, sparsity: float) -> int:
    return calibration.total - kept_of(calibration.total, sparsity)


def _first_to_go(groups: Sequence[PrunableGroup], ranks: Iterable[Tensor], asked: int, *, together: bool) -> list[int]:
    """How many units of each group go. Of equals the later group's go first, or all `together`."""
    queue = sorted((float(rank), -g) for g, own in enumerate(ranks) for rank in own[:-1])
    gone, removed, last = [0] * len(groups), 0, None
    for rank, negative in queue:
        if removed >= asked and not (together and rank == last):
            return gone
        gone[-negative] += 1
        removed += groups[-negative].cost
        last = rank
    if removed < asked:
        raise ValueError(
            f"{asked} weights should go, and the units hold {removed} beside the last of each group: ask for less, or "
            "use a pruner of single weights"
        )
    return gone
