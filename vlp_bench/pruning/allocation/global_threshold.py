"""One threshold on a score for many layers: of the model, of a modality, of a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from vlp_bench.pruning.allocation.budgets import by_ratio, exactly, grouped, kept_of
from vlp_bench.pruning.allocation.towers import warn_of_towers
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import Score
from vlp_bench.pruning.scoring.cache import evaluate, hints_of
from vlp_bench.pruning.scoring.pieces import is_entrywise, pieces, some
from vlp_bench.pruning.selection.across_layers import Sample, Scores, Thunk
from vlp_bench.pruning.selection.thresholds import kept_per_layer
from vlp_bench.pruning.statistics.calibration import Calibration

GroupBy = Literal["model", "modality", "layer", "block"]
HandOver = Literal["counts", "ratios"]


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

    def may_differ(self, calibration: Calibration, sparsity: float) -> bool:
        """Whether layers compete with each other."""
        return any(len(group) > 1 for group in grouped(calibration.layers.values(), self.group_by))

    def _compete(
        self, group: list[Layer], calibration: Calibration, sparsities: Sequence[float]
    ) -> list[dict[str, int]]:
        scores = {layer.name: partial(self._scores, layer, calibration) for layer in group}
        return self._kept(group, calibration, sparsities, scores)

    def _kept(
        self, group: list[Layer], calibration: Calibration, sparsities: Sequence[float], scores: Mapping[str, Thunk]
    ) -> list[dict[str, int]]:
        total, hints = sum(layer.size for layer in group), hints_of(self.score, calibration)
        return kept_per_layer(
            scores,
            [kept_of(total, sparsity, self.compat) for sparsity in sparsities],
            ties="none" if self.compat == "official" else "first",
            threshold_hint=hints.thresholds,
            masks=hints.masks if hints.masks_for == self.compat else None,
            sample=self._sample(group, calibration),
        )

    def _scores(self, layer: Layer, calibration: Calibration) -> Scores:
        """All scores of a layer."""
        found = pieces(self.score, layer, calibration)
        return evaluate(self.score, layer, calibration, self.compat) if found is None else found

    def _sample(self, group: list[Layer], calibration: Calibration) -> Sample | None:
        """Scores near those of the group that cost less; None: some of the scores themselves."""
        if not is_entrywise(self.score):
            return None
        return Sample.of([some(self.score, layer, calibration) for layer in group], [layer.size for layer in group])
