"""OWL (Yin et al., ICML 2024): blocks with more outliers among their weights times inputs stay denser."""

from __future__ import annotations

from dataclasses import dataclass

from vlp_bench.pruning.allocation.budgets import grouped, kept_of, share_out, spread
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import wanda
from vlp_bench.pruning.statistics.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class OWL:
    """A block's density grows with the share of its |w_ij| · ‖X_j‖ that are above `outlier` times their mean.

    Args:
        outlier: M.
        spread: λ; the densest block has 2λ more than the sparsest, before they are cut at 0 and 1.
    """

    outlier: float = 5.0
    spread: float = 0.08

    def __post_init__(self) -> None:
        for what in ("outlier", "spread"):
            if not getattr(self, what) > 0:
                raise ValueError(f"{what} must be positive, got {getattr(self, what)}")

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        blocks = grouped(calibration.layers.values(), "block")
        sizes = [sum(layer.size for layer in block) for block in blocks]
        shares = [self._outliers(block, calibration) for block in blocks]
        kept = share_out(blocks, spread(shares, sizes, 2 * self.spread, kept_of(calibration.total, sparsity)))
        return {name: kept[name] for name in calibration.layers}

    def _outliers(self, block: list[Layer], calibration: Calibration) -> float:
        """Share of a block's weights."""
        size = sum(layer.size for layer in block)
        limit = self.outlier * sum(float(wanda(layer, calibration).double().sum()) for layer in block) / size
        return sum(int((wanda(layer, calibration) > limit).sum()) for layer in block) / size
