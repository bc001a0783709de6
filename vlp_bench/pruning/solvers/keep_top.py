"""Keeps the best weights as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.score_cache import evaluate, threshold_hint
from vlp_bench.pruning.scores import Score
from vlp_bench.pruning.selection.patterns import check_within, pattern_of
from vlp_bench.pruning.selection.thresholds import keep_largest, keep_largest_per_group, keep_largest_per_row
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.calibration import Calibration

Within = Literal["layer", "matrix", "output"] | str  # or "n:m"
OTHERS = "others"  # the modalities that a mapping doesn't name


@dataclass(frozen=True)
class KeepTop:
    """The weights with the largest scores survive, exactly as many as the budget says.

    Args:
        score: larger survives.
        within: "layer": the best of the whole matrix. "matrix": the same, but for the official mode. "output": as many
            in every row (d_out), the first rows taking the remainder (Wanda). "n:m", such as "2:4": n of every m
            consecutive inputs of every row, which only a budget of n/m of a layer allows. Or one of these for each
            modality, as {"vision": "matrix", "others": "output"}.
        compat: "official" removes, within a layer, all that equals the largest removed score too; within a matrix, one
            weight more (ECoFLaP's Wanda on vision transformers); within outputs it lets every row round up.
        ties: of equals the lower index survives ("first"), or the higher one, in the official mode too ("last": the
            order of LAMP, which counts the earlier of equal weights as the smaller).
    """

    score: Score
    within: Within | Mapping[str, Within] = "layer"
    compat: Compat = "corrected"
    ties: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        for within in [self.within] if isinstance(self.within, str) else self.within.values():
            check_within(within, ("layer", "matrix", "output"))
        check_choice("ties", self.ties, ("first", "last") if self.within in ("layer", "matrix") else ("first",))
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks as stored, for the layers that have a budget."""
        return self.for_all(calibration, [budgets])[0]

    def for_all(self, calibration: Calibration, budgets: Sequence[dict[str, int]]) -> list[Solved]:
        """The answers to several budgets of the same layers; each layer is scored once."""
        masks: list[dict[str, Tensor]] = [{} for _ in budgets]
        for name in budgets[0]:
            layer = calibration.layers[name]
            scores = evaluate(self.score, layer, calibration, self.compat)
            for own, kept in zip(masks, budgets, strict=True):
                own[name] = layer.as_stored(self._mask(layer, scores, calibration, kept[name]))
        return [Solved(own, {}) for own in masks]

    def may_keep(self, layer: Layer, budget: int) -> range:
        """How many of a layer's weights. Official: every row rounds up, or what ties with the last removed goes too."""
        within, rows = self.within_of(layer), len(layer.matrix)
        if self.compat == "official" and within != "output":
            return range(max(0, budget - (within == "matrix")) + 1)
        kept = budget if self.compat == "corrected" else -(-budget // rows) * rows
        return range(kept, kept + 1)

    def within_of(self, layer: Layer) -> Within:
        """Among what the layer's weights compete; raises ValueError where a mapping doesn't say."""
        if isinstance(self.within, str):
            return self.within
        modality = layer.place.modality
        if modality not in self.within and OTHERS not in self.within:
            told = ", ".join([*self.within, OTHERS])
            raise ValueError(f"within says nothing of {layer.name!r}, of modality {modality!r}: it has {told}")
        return self.within.get(modality, self.within.get(OTHERS, "layer"))

    def _mask(self, layer: Layer, scores: Tensor, calibration: Calibration, kept: int) -> Tensor:
        official, within = self.compat == "official", self.within_of(layer)
        if pattern := pattern_of(within, layer, kept):
            return keep_largest_per_group(scores, *pattern)
        if within == "output":
            rows = len(scores)
            return keep_largest_per_row(scores, -(-kept // rows) * rows if official else kept)
        if within == "matrix" and official:
            kept = max(0, kept - 1)
        hint = threshold_hint(self.score, calibration).get((layer.name, kept))
        ties = "none" if official and self.ties == "first" else self.ties
        return keep_largest(scores, kept, name=layer.name, ties=ties, threshold_hint=hint)
