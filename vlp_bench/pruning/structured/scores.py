"""Scores of units: functions `(group, calibration) -> (units,)`; the larger survives."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vlp_bench.models.units import HEADS
from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.scores import Score
from vlp_bench.pruning.scoring.checks import score_of
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.input_moments import Fluctuations, InputMoments
from vlp_bench.pruning.statistics.inputs import InputNorms
from vlp_bench.pruning.structured.groups import PrunableGroup

UnitScore = Callable[[PrunableGroup, Calibration], Tensor]


def mean_score(group: PrunableGroup, calibration: Calibration, *, score: Score) -> Tensor:
    """The mean of a score of weights over all prunable weights of the unit, which is its sum by cost."""
    scores = [(part, score_of(score, part.layer, calibration).double()) for part in group.parts]
    return sum(part.by_unit(group.units, own).flatten(1).sum(1) for part, own in scores) / group.cost  # pyright: ignore


def wanda_sp(group: PrunableGroup, calibration: Calibration, *, compat: Compat = "corrected") -> Tensor:
    """Σ over the unit's columns, in the layer that reads it, of the mean |w|·‖X_j‖ over outputs (FLAP's baseline)."""
    layer = group.reads.layer
    columns = layer.matrix.double().abs().mean(0) * calibration[InputNorms(compat)][layer.name]
    return columns.view(group.units, -1).sum(1)


def magnitude_sp(group: PrunableGroup, calibration: Calibration) -> Tensor:
    """Σ over the unit's columns of ‖w_:j‖, of the layer that reads it (the baseline of An et al., AAAI 2024)."""
    return group.reads.layer.matrix.double().norm(dim=0).view(group.units, -1).sum(1)


def flap(group: PrunableGroup, calibration: Calibration, *, compat: Compat = "corrected") -> Tensor:
    """FLAP (An et al., AAAI 2024): the variance of what reads the unit sees, times ‖w_:j‖², standardised in the layer.

    Heads' are squared before, and their mean over the head's channels is taken after; all groups of the model compare.
    `compat="official"`: the released fluctuation, see `Fluctuations`. Equal values in a layer score 0.
    """
    layer = group.reads.layer
    official = compat == "official"
    spread = calibration[Fluctuations(compat)] if official else calibration[InputMoments(compat)]
    variance = spread[layer.name] if official else spread[layer.name][2]
    channels = variance * layer.matrix.double().square().sum(0)
    if group.group.what == HEADS:
        channels = channels.square()
    centred = channels - channels.mean()
    deviation = channels.std(correction=1 if len(channels) > 1 else 0)
    return (centred / deviation.masked_fill(deviation == 0, 1)).view(group.units, -1).mean(1)
