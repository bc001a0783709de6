"""ERK (Evci et al., ICML 2020): small layers, and layers far from square, stay denser."""

from __future__ import annotations

from dataclasses import dataclass

from vlp_bench.pruning.allocation.budgets import kept_of, pinned
from vlp_bench.pruning.statistics.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class ERK:
    """Densities in proportion to (d_in + d_out) / (d_in · d_out), cut at 1: of shapes alone."""

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        layers = calibration.layers.values()
        sizes = [layer.size for layer in layers]
        shares = [sum(layer.matrix.shape) / layer.size for layer in layers]
        kept = kept_of(calibration.total, sparsity)
        counts = pinned(lambda scale: [scale * share for share in shares], 0.0, 1 / min(shares), sizes, kept)
        return dict(zip(calibration.layers, counts, strict=True))
