"""One threshold on a score for many layers: of the model, of a modality, of a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from torch import Tensor

from vlp_bench.pruning.allocation.budgets import by_ratio, exactly, grouped, kept_of
from vlp_bench.pruning.allocation.towers import warn_of_towers
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.score_cache import evaluate, threshold_hint
from vlp_bench.pruning.scores import Score, fisher, magnitude, obd, signed, snip
from vlp_bench.pruning.selection.across_layers import Sample, pick
from vlp_bench.pruning.selection.thresholds import kept_per_layer
from vlp_bench.pruning.statistics.calibration import Calibration

GroupBy = Literal["model", "modality", "layer", "block"]
HandOver = Literal["counts", "ratios"]
ENTRYWISE: tuple[Score, ...] = (magnitude, signed, snip, obd, fisher)  # a weight's score is of its own numbers alone


@dataclass(frozen=True)
class GlobalThreshold:
    """One threshold on a score for all layers of the model, of a modality, of a block, or for each layer.

    Args:
        score: what they compete with.
        group_by: who competes with whom. Each group keeps exactly its share.
        compat: "official" removes int(s·N) and everything that equals the largest removed score.
        hand_over: "ratios" repeats, in official mode, that the released MULTIFLOW hands float ratios to the next step.
    """

    score: Score
    group_by: GroupBy = "model"
    compat: Compat = "corrected"
    hand_over: HandOver = "counts"

    def __post_init__(self) -> None:
        check_choice("group_by", self.group_by, ("model", "modality", "layer", "block"))
        check_choice("hand_over", self.hand_over, ("counts", "ratios"))
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        return self.for_all(calibration, [sparsity])[0]

    def for_all(self, calibration: Calibration, sparsities: Sequence[float]) -> list[dict[str, int]]:
        """Kept weights per layer at each of several sparsities, from one search."""
        if self.group_by == "modality":
            warn_of_towers(calibration)
        kept: list[dict[str, int]] = [{} for _ in sparsities]
        for group in grouped(calibration.layers.values(), self.group_by):
            for whole, part in zip(kept, self._compete(group, calibration, sparsities), strict=True):
                whole |= part
        ratios = self.hand_over == "ratios" and self.compat == "official"
        sizes = {name: layer.size for name, layer in calibration.layers.items()}
        return [{name: by_ratio(own[name], n) if ratios else own[name] for name, n in sizes.items()} for own in kept]

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """The sum of the groups' budgets. Official: less by what ties with it, more by one a layer of ratios."""
        groups = grouped(calibration.layers.values(), self.group_by)
        budget = sum(kept_of(sum(layer.size for layer in group), sparsity, self.compat) for group in groups)
        if self.compat == "corrected":
            return exactly(budget)
        return range(budget + 1 + (len(calibration.layers) if self.hand_over == "ratios" else 0))

    def _compete(
        self, group: list[Layer], calibration: Calibration, sparsities: Sequence[float]
    ) -> list[dict[str, int]]:
        total = sum(layer.size for layer in group)
        return kept_per_layer(
            {layer.name: lambda layer=layer: self._scores(layer, calibration) for layer in group},
            [kept_of(total, sparsity, self.compat) for sparsity in sparsities],
            ties="none" if self.compat == "official" else "first",
            threshold_hint=threshold_hint(self.score, calibration),
            sample=self._sample(group, calibration),
        )

    def _scores(self, layer: Layer, calibration: Calibration) -> Tensor:
        """All scores of a layer, in any order."""
        return evaluate(self.score, layer, calibration, self.compat)

    def _sample(self, group: list[Layer], calibration: Calibration) -> Sample | None:
        """Scores near those of the group that cost less; None: some of the scores themselves."""
        if getattr(self.score, "func", self.score) not in ENTRYWISE:
            return None
        picked: Any = _Picked(calibration)
        scores = [self.score(picked.layer(layer), picked) for layer in group]
        return Sample.of([score.float() for score in scores], [layer.size for layer in group])


@dataclass(frozen=True)
class _Picked:
    """A calibration of which a few weights and their statistics are looked at."""

    calibration: Calibration

    def layer(self, layer: Layer) -> Any:
        """What an entrywise score asks of a layer."""
        return SimpleNamespace(name=layer.name, matrix=pick(layer.matrix))

    def __getitem__(self, statistic: Any) -> _PickedStatistic:
        return _PickedStatistic(self.calibration[statistic])


@dataclass(frozen=True)
class _PickedStatistic:
    numbers: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return pick(self.numbers[name])
