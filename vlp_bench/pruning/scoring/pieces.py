"""Entrywise scores a piece at a time: what is looked at stays in a processor's cache, none of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import Score, fisher, magnitude, obd, signed, snip
from vlp_bench.pruning.selection.across_layers import CHUNK, pick
from vlp_bench.pruning.statistics.calibration import Calibration

ENTRYWISE: tuple[Score, ...] = (magnitude, signed, snip, obd, fisher)  # a weight's score is of its own numbers alone
Cut = Callable[[Tensor], Tensor]


def is_entrywise(score: Score) -> bool:
    """Whether the score of some weights can be computed from these and their statistics alone."""
    return getattr(score, "func", score) in ENTRYWISE


def pieces(score: Score, layer: Layer, calibration: Calibration) -> Iterator[Tensor] | None:
    """An entrywise score of a layer on a processor, flat, in float32, piece by piece; None: it can't be had so."""
    alive = calibration.is_step or layer.name in calibration.alive
    whole = layer.matrix if layer.weight.dtype in (torch.float32, torch.float64) else None
    if alive or whole is None or whole.device.type != "cpu" or not whole.is_contiguous() or not is_entrywise(score):
        return None
    length = CHUNK["cpu"]
    return (
        _of_part(score, layer, calibration, lambda t, start=start: t.reshape(-1)[start : start + length])
        for start in range(0, max(1, layer.size), length)
    )


def some(score: Score, layer: Layer, calibration: Calibration) -> Tensor:
    """An entrywise score of a few of a layer's weights, float32."""
    return _of_part(score, layer, calibration, pick)


def _of_part(score: Score, layer: Layer, calibration: Calibration, cut: Cut) -> Tensor:
    part: Any = _Part(calibration, cut)
    return score(part.layer(layer), part).detach().float()


@dataclass(frozen=True)
class _Part:
    """A calibration of which some weights and their statistics are looked at."""

    calibration: Calibration
    cut: Cut

    def layer(self, layer: Layer) -> Any:
        """What an entrywise score asks of a layer."""
        return SimpleNamespace(name=layer.name, matrix=self.cut(layer.matrix))

    def __getitem__(self, statistic: Any) -> _PartOfStatistic:
        return _PartOfStatistic(self.calibration[statistic], self.cut)


@dataclass(frozen=True)
class _PartOfStatistic:
    numbers: Mapping[str, Tensor]
    cut: Cut

    def __getitem__(self, name: str) -> Tensor:
        return self.cut(self.numbers[name])
