"""Scores as a step of a schedule sees them: removed weights come last, and each layer is scored once a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from operator import gt, ne
from typing import Any

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import Score
from vlp_bench.pruning.scoring.checks import score_of
from vlp_bench.pruning.selection.thresholds import ThresholdHints, compared, count
from vlp_bench.pruning.statistics.calibration import Calibration


@dataclass(frozen=True)
class StepScores:
    """Statistic: the scores of all layers as one step of a schedule sees them, 4 bytes a weight."""

    score: Score = field(compare=False)
    compat: Compat
    words: Any  # of the score, which may be a partial: two that say the same are not equal

    def of(self, calibration: Calibration) -> dict[str, Tensor]:
        """By layer. Where just what is alive scores above zero, the removed come last as it is."""
        scores = {name: score_of(self.score, layer, calibration) for name, layer in calibration.layers.items()}
        alive = {} if self.compat == "official" else calibration.alive
        if any(count(compared(ne, compared(gt, scores[n].float(), 0.0), mask)) for n, mask in alive.items()):
            for name, mask in alive.items():
                scores[name] = _removed_last(scores[name], mask)
        return scores


@dataclass
class Hints:
    """What selections by one score leave for later ones of the same calibration.

    Attributes:
        thresholds: scores near which its competitions ended.
        masks: by layer and number of weights kept, flat: finished ones, to be taken out.
        masks_for: whose they are to be; None: nobody waits for masks.
    """

    thresholds: ThresholdHints = field(default_factory=dict)
    masks: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    masks_for: Compat | None = None

    def expect_masks(self, of: Compat | None) -> None:
        """From now on for these, or no more; those that nobody took are dropped."""
        self.masks_for = of
        self.masks.clear()


@dataclass(frozen=True)
class HintsOf:
    """Statistic: hints about a score, empty at first and filled by whoever asks."""

    words: Any

    def of(self, calibration: Calibration) -> Hints:
        """None yet."""
        return Hints()


def evaluate(score: Score, layer: Layer, calibration: Calibration, compat: Compat) -> Tensor:
    """The score of one layer; a weight that an earlier step removed comes last. Kept for one step of a schedule."""
    if calibration.is_step:
        return calibration[StepScores(score, compat, words_of(score))][layer.name]
    alive = None if compat == "official" else calibration.alive.get(layer.name)
    scores = score_of(score, layer, calibration)
    return scores if alive is None else _removed_last(scores, alive)


def _removed_last(scores: Tensor, alive: Tensor) -> Tensor:
    # torch.where jumps for every element, which takes 2.5 times as long
    limit = alive.view(torch.int8).to(scores.dtype).sub_(0.5).mul_(torch.inf)
    return torch.minimum(scores, limit, out=limit)


def words_of(score: Score) -> Any:
    """The same for two scores that are the same function with the same options."""
    return (score.func, *sorted(score.keywords.items())) if isinstance(score, partial) else (score,)


def hints_of(score: Score, calibration: Calibration) -> Hints:
    """What is known of this score's competitions with this calibration."""
    return calibration[HintsOf(words_of(score))]
