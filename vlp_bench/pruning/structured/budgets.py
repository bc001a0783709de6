"""How many units each group keeps, as weights of every layer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from vlp_bench.pruning.allocation.budgets import kept_of
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.structured.groups import PrunableGroup, Units
from vlp_bench.pruning.structured.scores import UnitScore

log = logging.getLogger(__name__)
COARSE = 0.005  # a sparsity above the one that was asked for by more is told


@dataclass(frozen=True, kw_only=True)
class UnitBudgets:
    """The least units go until the sparsity is reached: never less is removed, and little more (see `between`).

    Weights in no unit stay, and one unit of each group. A unit costs its prunable weights.

    Args:
        score: larger survives.
        between: "model": all units of the model compete; less than one unit too much goes. "group": every group loses
            the same share, so that groups that are alike stay so; where heads are too coarse for that, neurons make up
            for it, and less than one unit of each group goes too much.
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
        asked = _asked(calibration, sparsity)
        if self.between == "model":
            gone = _least(groups, [self.score(group, calibration) for group in groups], asked)
        else:
            gone = _equal_shares(groups, asked)
        budgets = {name: layer.size for name, layer in calibration.layers.items()}
        for group, count in zip(groups, gone, strict=True):
            for part in group.parts:
                budgets[part.layer.name] -= count * part.layer.size // group.units
        self._tell(calibration, sparsity, sum(budgets.values()))
        return budgets

    @staticmethod
    def _tell(calibration: Calibration, sparsity: float, kept: int) -> None:
        """Log a sparsity that is another one in whole percents because units are coarse."""
        reached = 1 - kept / calibration.total
        if reached - sparsity > COARSE:
            message = f"{100 * sparsity:g} % was asked for, whole units make it {100 * reached:.1f} %"
            warn_once(log, calibration.model, message)

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """Less than asked by less than the dearest unit, or by less than one of each group."""
        kept = calibration.total - _asked(calibration, sparsity)
        costs = [group.cost for group in calibration[Units()]]
        most = max(costs) if self.between == "model" else sum(costs)
        return range(max(0, kept - most + 1), kept + 1)


def _asked(calibration: Calibration, sparsity: float) -> int:
    return calibration.total - kept_of(calibration.total, sparsity)


def _least(groups: Sequence[PrunableGroup], scores: Iterable[Tensor], asked: int) -> list[int]:
    """How many units of each group go when all compete. Of equals the later group's go first."""
    queue = sorted((float(one), -g) for g, own in enumerate(scores) for one in own.double().cpu().sort().values[:-1])
    gone, removed = [0] * len(groups), 0
    for _, negative in queue:
        if removed >= asked:
            return gone
        gone[-negative] += 1
        removed += groups[-negative].cost
    _check_enough(removed, asked)
    return gone


def _equal_shares(groups: Sequence[PrunableGroup], asked: int) -> list[int]:
    """How many units of each group go, all at the same pace, those with equally many units together.

    A step that would be too much is left out, and its groups rest; the cheapest of these steps is the last.
    """
    steps: dict[tuple[Fraction, int], list[int]] = {}
    for g, group in enumerate(groups):
        for count in range(1, group.units):
            steps.setdefault((Fraction(count, group.units), -group.units), []).append(g)
    gone, removed, resting, last = [0] * len(groups), 0, set[int](), list[tuple[int, list[int]]]()
    for step in sorted(steps):
        own = [g for g in steps[step] if g not in resting]
        cost = sum(groups[g].cost for g in own)
        if removed + cost > asked:
            resting.update(own)
            last.append((cost, own))
            continue
        removed += cost
        for g in own:
            gone[g] += 1
    if removed < asked:
        cost, own = min(last, default=(0, list[int]()))
        _check_enough(removed + cost, asked)
        for g in own:
            gone[g] += 1
    return gone


def _check_enough(removed: int, asked: int) -> None:
    if removed < asked:
        raise ValueError(
            f"{asked} weights should go, and the units hold {removed} beside the last of each group: ask for less, or "
            "use a pruner of single weights"
        )
