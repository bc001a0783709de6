"""Keeps the best weights as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import Score
from vlp_bench.pruning.scoring.cache import evaluate, hints_of
from vlp_bench.pruning.scoring.pieces import pieces
from vlp_bench.pruning.selection.patterns import check_within, pattern_of
from vlp_bench.pruning.selection.thresholds import (
    Ties,
    keep_from,
    keep_largest,
    keep_largest_of_each,
    keep_largest_per_group,
    keep_largest_per_row,
)
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
            weight more (ECoFLaP's Wanda on vision transformers); within outputs it lets every row round up, and of
            equals the higher index survives.
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
            found = self._masks(layer, calibration, [kept[name] for kept in budgets])
            for own, mask in zip(masks, found, strict=True):
                own[name] = layer.as_stored(mask)
        hints_of(self.score, calibration).expect_masks(None)
        return [Solved(own, {}) for own in masks]

    def expects_masks(self, calibration: Calibration) -> None:
        """Tells whoever ranks the same scores for the budgets of a calibration that it may leave the masks, too."""
        if self.within == "layer" and self.ties == "first":
            hints_of(self.score, calibration).expect_masks(self.compat)

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

    def _masks(self, layer: Layer, calibration: Calibration, kept: list[int]) -> list[Tensor]:
        """(d_out, d_in) for each number of weights."""
        within = self.within_of(layer)
        if within == "output" or pattern_of(within, layer, kept[0]):
            scores = evaluate(self.score, layer, calibration, self.compat)
            return [self._in_groups(layer, scores, within, own) for own in kept]
        if self.compat == "official" and within == "matrix":
            kept = [max(0, own - 1) for own in kept]
        found = self._known(layer, calibration, kept)
        missing = [own for own, mask in zip(kept, found, strict=True) if mask is None]
        if not missing:
            return [mask for mask in found if mask is not None]
        searched = iter(self._searched(layer, calibration, missing))
        return [next(searched) if mask is None else mask for mask in found]

    def _in_groups(self, layer: Layer, scores: Tensor, within: Within, kept: int) -> Tensor:
        if pattern := pattern_of(within, layer, kept):
            return keep_largest_per_group(scores, *pattern)
        if self.compat == "corrected":
            return keep_largest_per_row(scores, kept)
        rows = len(scores)
        return keep_largest_per_row(scores.flip(1), -(-kept // rows) * rows).flip(1)  # a stable sort: the lower goes

    def _known(self, layer: Layer, calibration: Calibration, kept: list[int]) -> list[Tensor | None]:
        """Masks that were left by whoever found the budgets, or that follow from where the scores were divided."""
        hints, shape = hints_of(self.score, calibration), layer.matrix.shape
        ready = [hints.masks.pop((layer.name, own), None) for own in kept]
        least = [hints.thresholds.get((layer.name, own)) for own in kept]
        parts = None if self._ties == "none" else pieces(self.score, layer, calibration)
        if parts is None or None in least or any(mask is not None for mask in ready):
            return [None if mask is None else mask.view(shape) for mask in ready]
        return keep_from(parts, shape, kept, [size for size in least if size is not None])

    def _searched(self, layer: Layer, calibration: Calibration, kept: list[int]) -> list[Tensor]:
        scores, hints = evaluate(self.score, layer, calibration, self.compat), hints_of(self.score, calibration)
        least = [hints.thresholds.get((layer.name, own)) for own in kept]
        if all(own is None for own in least):
            return keep_largest_of_each(scores, kept, name=layer.name, ties=self._ties)
        return [
            keep_largest(scores, own, name=layer.name, ties=self._ties, threshold_hint=hint)
            for own, hint in zip(kept, least, strict=True)
        ]

    @property
    def _ties(self) -> Ties:
        return "none" if self.compat == "official" and self.ties == "first" else self.ties
