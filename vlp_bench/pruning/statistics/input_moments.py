"""Means and variances of a layer's inputs, over tokens that count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.inputs import InputStatistic
from vlp_bench.pruning.statistics.protocol import Sums


def by_row(x: Tensor, mask: Tensor | None) -> Tensor:
    """(rows, 3, d) float64 of x (rows, ..., d): tokens, Σ x and Σ x² of every row; false tokens don't count."""
    rows = x.shape[0] if x.ndim > 1 else 1
    x = x.detach().reshape(rows, math.prod(x.shape[1:-1]), x.shape[-1]).double()
    counts = torch.full((rows,), float(x.shape[1]), dtype=torch.float64, device=x.device)
    if mask is not None:
        seen = mask.to(x.device).reshape(x.shape[:2])
        x, counts = x.masked_fill(~seen[..., None], 0.0), seen.sum(1).double()
    return torch.stack([counts[:, None].expand(-1, x.shape[-1]), x.sum(1), x.square().sum(1)], 1)


@dataclass(frozen=True)
class InputMoments(InputStatistic):
    """(3, d_in) float64: Σ x / rows, and mean and variance of x over all tokens."""

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (3, layer.matrix.shape[1])

    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_row(x, mask).sum(0)

    def result(self, layers: Mapping[str, Layer], sums: Sums, counts: Mapping[str, int]) -> Sums:
        return {name: _moments(sums[name], counts[name]) for name in layers}


def _moments(sums: Tensor, rows: int) -> Tensor:
    """The variance is at least 0 and exactly 0 where rounding alone would be seen."""
    tokens, total, squares = sums
    mean, square = total / tokens, squares / tokens
    variance = square - mean.square()
    return torch.stack([total / rows, mean, variance.masked_fill(variance <= 1e-12 * square, 0.0)])


@dataclass(frozen=True)
class RowVariances(InputStatistic):
    """(d_in,) float64: the variance over the tokens of a row, in the mean over rows weighted by their tokens.

    What lies between rows is lost: the released DSnoT takes this for the variance.
    """

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (layer.matrix.shape[1],)

    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        tokens, total, squares = by_row(x, mask).unbind(1)
        within = squares - total.square() / tokens.clamp_min(1)
        return torch.stack([tokens.sum(0), within.clamp_min_(0).sum(0)])

    def result(self, layers: Mapping[str, Layer], sums: Sums, counts: Mapping[str, int]) -> Sums:
        return {name: sums[name][1] / sums[name][0] for name in layers}


@dataclass(frozen=True)
class Fluctuations(InputStatistic):
    """(d_in,) float64: how far inputs lie from their mean, as the released FLAP sums it up.

    Row by row: Σ (x - mean so far, this row's included)² over tokens is added; the first row gives nothing, and the
    result is a running mean with one row less. A variance would take the mean before times the mean after.
    """

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (layer.matrix.shape[1],)

    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_row(x, mask)

    def add(self, sums: Sums, name: str, term: Tensor) -> None:
        seen = sums.get(name, term.new_zeros(3, term.shape[-1]))  # rows, the mean of their means, what was added up
        for tokens, total, squares in term[term[:, 0, 0] > 0]:
            rows = seen[0] + 1
            mean = seen[1] * (seen[0] / rows) + total / tokens / rows
            own = squares - 2 * mean * total + tokens * mean.square()
            fluctuation = torch.where(
                seen[0] > 0, seen[2] * (seen[0] - 1).clamp_min(0) / seen[0].clamp_min(1) + own / rows, 0
            )
            seen = torch.stack([rows, mean, fluctuation])
        sums[name] = seen

    def result(self, layers: Mapping[str, Layer], sums: Sums, counts: Mapping[str, int]) -> Sums:
        return {name: sums[name][2].clamp_min(0) for name in layers}
