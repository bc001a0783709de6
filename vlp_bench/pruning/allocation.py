"""Allocators: how many weights each layer keeps. They count in integers; a sparsity is a float only at the edge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import gt, ne
from typing import Any, Literal

import torch
from torch import Tensor

from vlp_bench.pruning import rest
from vlp_bench.pruning.calibration import Calibration
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import Score, lamp
from vlp_bench.pruning.shares import apportion
from vlp_bench.pruning.thresholds import Near, compared, count, kept_per_layer

Allocate = Callable[[Calibration, float], dict[str, int]]  # (calibration, sparsity) -> kept weights per layer
Between = Literal["model", "modality", "layer", "block"]
HandOver = Literal["counts", "ratios"]
Truncate = Literal["kept", "removed"]


def kept_of(total: int, sparsity: float, compat: Compat = "corrected") -> int:
    """The budget of `total` weights: (1 - s)·total, rounded; the released code removes int(s·total)."""
    return total - int(sparsity * total) if compat == "official" else round((1 - sparsity) * total)


def by_ratio(kept: int, total: int) -> int:
    """A count after it was handed over as a float ratio and truncated: sometimes one more is kept."""
    return total - int((1 - kept / total) * total)


def evaluate(score: Score, layer: Layer, calibration: Calibration, compat: Compat) -> Tensor:
    """The score of one layer; a weight that an earlier step removed comes last. Kept for one step of a schedule."""
    if calibration.one_step:
        key = ("scores", words_of(score), compat)
        if key not in calibration.memory:
            calibration.memory[key] = _of_step(score, calibration, compat)
        return calibration.memory[key][layer.name]
    alive = None if compat == "official" else calibration.alive.get(layer.name)
    scores = score(layer, calibration)
    return scores if alive is None else _removed_last(scores, alive)


def _of_step(score: Score, calibration: Calibration, compat: Compat) -> dict[str, Tensor]:
    """The scores of all layers. Where just what is alive scores above zero, the removed come last as it is."""
    scores = {name: score(layer, calibration) for name, layer in calibration.layers.items()}
    alive = {} if compat == "official" else calibration.alive
    if any(count(compared(ne, compared(gt, scores[n].float(), 0.0), mask)) for n, mask in alive.items()):
        for name, mask in alive.items():
            scores[name] = _removed_last(scores[name], mask)
    return scores


def _removed_last(scores: Tensor, alive: Tensor) -> Tensor:
    # torch.where jumps for every element, which takes 2.5 times as long
    limit = alive.view(torch.int8).to(scores.dtype).sub_(0.5).mul_(torch.inf)
    return torch.minimum(scores, limit, out=limit)


def words_of(score: Score) -> Any:
    """The same for two scores that are the same function with the same options."""
    return (score.func, *sorted(score.keywords.items())) if isinstance(score, partial) else (score,)


def near(score: Score, calibration: Calibration) -> Near:
    """Scores near which this one's competitions with this calibration ended."""
    return calibration.memory.setdefault(("near", words_of(score)), {})


def without_sort(score: Score, layer: Layer, calibration: Calibration) -> bool:
    """Whether the score is LAMP's and `vlp_bench.pruning.rest` can rank it: same masks, a fraction of the time."""
    dense = layer.name not in calibration.alive
    return getattr(score, "func", score) is lamp and dense and layer.matrix.dtype is torch.float32


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every layer keeps all it has, whatever the sparsity: the dense model."""

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        return {name: layer.size for name, layer in calibration.layers.items()}


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every layer keeps the same share."""

    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        return {name: kept_of(layer.size, sparsity, self.compat) for name, layer in calibration.layers.items()}


@dataclass(frozen=True, kw_only=True)
class Total:
    """One budget for the whole model, in proportion to the layers' sizes: for solvers that share it out themselves.

    Args:
        truncate: which number official mode truncates: that of the weights "kept" (CHITA) or "removed" (TAMT).
    """

    truncate: Truncate = "kept"
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_choice("truncate", self.truncate, ("kept", "removed"))
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        total = calibration.total
        kept = kept_of(total, sparsity, self.compat)
        if self.compat == "official" and self.truncate == "kept":
            kept = int((1 - sparsity) * total)
        sizes = [layer.size for layer in calibration.layers.values()]
        return dict(zip(calibration.layers, apportion(kept, sizes), strict=True))


@dataclass(frozen=True)
class Competition:
    """One threshold on a score for all layers of the model, of a modality, of a block, or for each layer.

    Args:
        score: what they compete with.
        between: who competes with whom. Each group keeps exactly its share.
        compat: "official" removes int(s·N) and everything that equals the largest removed score.
        hand_over: "ratios" repeats, in official mode, that the released MULTIFLOW hands float ratios to the next step.
    """

    score: Score
    between: Between = "model"
    compat: Compat = "corrected"
    hand_over: HandOver = "counts"

    def __post_init__(self) -> None:
        check_choice("between", self.between, ("model", "modality", "layer", "block"))
        check_choice("hand_over", self.hand_over, ("counts", "ratios"))
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        kept: dict[str, int] = {}
        for group in self._groups(calibration):
            kept |= self._compete(group, calibration, sparsity)
        ratios = self.hand_over == "ratios" and self.compat == "official"
        sizes = {name: layer.size for name, layer in calibration.layers.items()}
        return {name: by_ratio(kept[name], size) if ratios else kept[name] for name, size in sizes.items()}

    def _groups(self, calibration: Calibration) -> list[list[Layer]]:
        groups: dict[str, list[Layer]] = {}
        for layer in calibration.layers.values():
            place = layer.place
            places = {"modality": place.modality, "block": f"{place.modality}/{place.block}", "layer": layer.name}
            groups.setdefault(places.get(self.between, ""), []).append(layer)
        return list(groups.values())

    def _compete(self, group: list[Layer], calibration: Calibration, sparsity: float) -> dict[str, int]:
        budget = kept_of(sum(layer.size for layer in group), sparsity, self.compat)
        ties = "none" if self.compat == "official" else "first"
        if all(without_sort(self.score, layer, calibration) for layer in group):
            return rest.kept_per_layer(
                {x.name: lambda x=x: x.matrix for x in group}, budget, ties=ties, memory=calibration.memory
            )
        scores = {
            layer.name: lambda layer=layer: evaluate(self.score, layer, calibration, self.compat) for layer in group
        }
        (kept,) = kept_per_layer(scores, [budget], ties=ties, near=near(self.score, calibration))
        return kept
