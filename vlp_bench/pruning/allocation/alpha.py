"""AlphaPruning (Lu et al., NeurIPS 2024): the heavier the tail of a layer's spectrum, the denser it stays. No data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vlp_bench.pruning.allocation.budgets import grouped, in_unit_interval, kept_of, pinned, share_out
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.calibration import Calibration

Tail = Literal["mid", "peak"]
Granularity = Literal["block", "layer"]
BINS = 100
LEAST = 1e-12  # the share of the largest below which an eigenvalue is a rounding error of zero


@dataclass(frozen=True, kw_only=True)
class AlphaPruning:
    """Sparsities grow linearly with the exponent α of a power law that the spectrum's tail follows (Hill's estimate).

    A fused matrix (queries, keys and values in one) is one matrix with one spectrum.

    Args:
        spread: ε; sparsities are in proportion to 1 - ε (smallest α) to 1 + ε (largest), cut at 1.
        tail: where it begins. "mid": at the median eigenvalue. "peak": near the peak of their histogram, where the
            power law fits best.
        granularity: a "block" has the mean α of its layers, or each "layer" its own.
        compat: "official" looks for the peak's tail from the logarithm of its lower bound on, among all eigenvalues.
    """

    spread: float = 0.3
    tail: Tail = "peak"
    granularity: Granularity = "block"
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        if not 0 < self.spread < 1:
            raise ValueError(f"spread must be above 0 and below 1, got {self.spread}")
        check_choice("tail", self.tail, get_args(Tail))
        check_choice("granularity", self.granularity, get_args(Granularity))
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        alphas = calibration[TailExponents(self.tail, self.compat)]
        groups = grouped(calibration.layers.values(), self.granularity)
        sizes = [sum(layer.size for layer in group) for group in groups]
        values = [sum(alphas[layer.name] for layer in group) / len(group) for group in groups]
        counts = in_proportion(values, sizes, self.spread, kept_of(calibration.total, sparsity))
        kept = share_out(groups, counts)
        return {name: kept[name] for name in calibration.layers}


def in_proportion(values: list[float], sizes: list[int], spread: float, kept: int) -> list[int]:
    """Budgets of groups whose sparsities are in proportion to 1 - spread (smallest value) to 1 + spread (largest)."""
    weights = [1 - spread + 2 * spread * share for share in in_unit_interval(values)]
    return pinned(lambda scale: [1 + scale * own for own in weights], -1 / min(weights), 0.0, sizes, kept)


@dataclass(frozen=True)
class TailExponents:
    """Statistic, of the weights alone: α of each layer; where no tail falls off, the largest α of the others."""

    tail: Tail
    compat: Compat

    def of(self, calibration: Calibration) -> dict[str, float]:
        """By layer."""
        found = {name: self._alpha(layer) for name, layer in calibration.layers.items()}
        largest = max((alpha for alpha in found.values() if math.isfinite(alpha)), default=0.0)
        return {name: alpha if math.isfinite(alpha) else largest for name, alpha in found.items()}

    def _alpha(self, layer: Layer) -> float:
        eigenvalues = spectrum(layer.matrix)
        least = LEAST * float(eigenvalues.max()) if self.compat == "corrected" else 0.0
        eigenvalues = eigenvalues[eigenvalues > least]
        alphas = hill(eigenvalues)
        if self.tail == "mid" or len(alphas) < 2:
            return float(alphas[len(alphas) // 2]) if len(alphas) else math.inf
        return float(alphas[best_fit(eigenvalues, alphas, self.compat)])


def spectrum(w: Tensor) -> Tensor:
    """(min(d),) float64: the squared singular values, ascending."""
    narrow = w.double() if w.shape[0] <= w.shape[1] else w.double().t()
    return torch.linalg.eigvalsh(narrow @ narrow.t())


def hill(eigenvalues: Tensor) -> Tensor:
    """(n,) α_i = 1 + k / Σ_{m ≥ i} ln(λ_m / λ_i) over the k = n - i largest; infinite where they are equal."""
    logs = eigenvalues.log()
    k = torch.arange(len(logs), 0, -1, dtype=logs.dtype, device=logs.device)
    above = logs.flip(0).cumsum(0).flip(0) - k * logs
    return torch.where(above > 1e-9, 1 + k / above, torch.inf)


def best_fit(eigenvalues: Tensor, alphas: Tensor, compat: Compat = "corrected") -> int:
    """Which eigenvalue the tail begins with: of those near the peak, the one whose power law fits best.

    The peak is the left edge of the fullest of 100 bins of log₁₀ λ; near is 0.95 to 1.5 times that. The distance is
    Kolmogorov and Smirnov's. The released code takes the lower bound's logarithm.
    """
    logs = eigenvalues.log10()
    low, high = float(logs.min()), float(logs.max())
    fullest = int(torch.histc(logs, BINS, low, high).argmax())
    peak = 10 ** (low + (high - low) * fullest / BINS)
    least = math.log10(0.95 * peak) if compat == "official" else 0.95 * peak
    near = ((eigenvalues >= least) & (eigenvalues <= 1.5 * peak))[:-1].nonzero().flatten().tolist()
    return min(near or [0], key=lambda i: _distance(eigenvalues[i:], float(alphas[i])))


def _distance(tail: Tensor, alpha: float) -> float:
    """The largest difference between the power law and the tail's own distribution; 1 where there is no law."""
    if not 1 < alpha < math.inf:
        return 1.0
    ranks = torch.arange(len(tail), dtype=tail.dtype, device=tail.device) / len(tail)
    return float((1 - (tail / tail[0]) ** (1 - alpha) - ranks).abs().max())
