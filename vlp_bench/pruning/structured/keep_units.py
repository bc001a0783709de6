"""Keeps the best units of every group, as masks of whole rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.structured.groups import PrunableGroup, Units, masks_of
from vlp_bench.pruning.structured.scores import UnitScore


@dataclass(frozen=True, kw_only=True)
class KeepUnits:
    """The units with the largest scores survive; of equals the lower index.

    Args:
        score: larger survives.
        compat: is handed to the score.
    """

    score: UnitScore
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks as stored.

        Raises:
            ValueError: a budget is no whole number of units, or of a layer that has none.
        """
        groups = calibration[Units()]
        _check_others(groups, calibration, budgets)
        keep = {group.name: self._best(group, calibration, _count(group, budgets)) for group in groups}
        masks = masks_of(groups, keep, calibration.layers)
        return Solved({name: masks[name] for name in budgets}, {})

    def _best(self, group: PrunableGroup, calibration: Calibration, count: int) -> Tensor:
        scores = self.score(group, calibration)
        if scores.shape != (group.units,) or not bool(torch.isfinite(scores).all()):
            raise ValueError(f"the scores of {group.name!r} must be {group.units} finite numbers, got {scores}")
        order = scores.double().sort(descending=True, stable=True).indices
        keep = torch.zeros(group.units, dtype=torch.bool)
        keep[order[:count].cpu()] = True
        return keep


def _count(group: PrunableGroup, budgets: Mapping[str, int]) -> int:
    """How many units the budgets of the group's layers are."""
    counts = {part.layer.name: budgets[part.layer.name] * group.units / part.layer.size for part in group.parts}
    first = next(iter(counts.values()))
    if any(count != first or count != int(count) for count in counts.values()):
        told = ", ".join(f"{count:g} of {name!r}" for name, count in counts.items())
        raise ValueError(f"budgets of {group.name!r} are {told}, of {group.units} units: use pruner/allocate=units")
    return int(first)


def _check_others(groups: list[PrunableGroup], calibration: Calibration, budgets: Mapping[str, int]) -> None:
    """A layer without units stays whole."""
    known = {part.layer.name for group in groups for part in group.parts}
    for name, kept in budgets.items():
        if name not in known and kept != calibration.layers[name].size:
            raise ValueError(
                f"{name!r} has no units and should keep {kept} of {calibration.layers[name].size} weights: "
                "use pruner/allocate=units, which leaves it whole"
            )
