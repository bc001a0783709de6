"""Densities of blocks spread by what their weights times inputs are like: OWL and DLP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from vlp_bench.pruning.allocation.budgets import grouped, kept_of, share_out, spread
from vlp_bench.pruning.checks import Compat, check_compat, check_positive
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import wanda
from vlp_bench.pruning.statistics.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class Spread(ABC):
    """A block's density grows linearly with a value of it; the mean over the model's weights is what is asked for.

    Args:
        spread: λ; the densest block has 2λ more than the sparsest, before they are cut at 0 and 1.
    """

    spread: float

    def __post_init__(self) -> None:
        check_positive(spread=self.spread)

    @abstractmethod
    def value(self, block: list[Layer], calibration: Calibration) -> float:
        """Finite; the larger, the denser."""

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        blocks = grouped(calibration.layers.values(), "block")
        values = [self.value(block, calibration) for block in blocks]
        sizes = [sum(layer.size for layer in block) for block in blocks]
        kept = share_out(blocks, spread(values, sizes, 2 * self.spread, kept_of(calibration.total, sparsity)))
        return {name: kept[name] for name in calibration.layers}

    def may_differ(self, calibration: Calibration, sparsity: float) -> bool:
        """Whether there is more than one block."""
        return len(grouped(calibration.layers.values(), "block")) > 1


@dataclass(frozen=True, kw_only=True)
class OWL(Spread):
    """Denser with the share of a block's |w_ij| · ‖X_j‖ above `outlier` times their mean (Yin et al., ICML 2024).

    Args:
        outlier: M.
        spread: λ; the densest block has 2λ more than the sparsest, before they are cut at 0 and 1.
    """

    outlier: float = 5.0
    spread: float = 0.08

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(outlier=self.outlier)

    def value(self, block: list[Layer], calibration: Calibration) -> float:
        """Share of a block's weights."""
        size = sum(layer.size for layer in block)
        limit = self.outlier * sum(float(wanda(layer, calibration).double().sum()) for layer in block) / size
        return sum(int((wanda(layer, calibration) > limit).sum()) for layer in block) / size


@dataclass(frozen=True, kw_only=True)
class DLP(Spread):
    """Denser the smaller the median of a block's |w_ij| · ‖X_j‖ is (Chen et al., ICML 2025).

    The paper's importance, 1 less the block's share of all medians, orders and spaces the blocks alike.

    Args:
        spread: the paper's α.
        compat: "official" takes the mean: the released code reads its own choice of the median for N:M alone.
    """

    spread: float = 0.15
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_compat(self.compat)

    def value(self, block: list[Layer], calibration: Calibration) -> float:
        """The median (of an even number the lower of the two in the middle), or the mean, times -1."""
        flowing = torch.cat([wanda(layer, calibration).flatten() for layer in block])
        return -float(flowing.double().mean() if self.compat == "official" else flowing.median())
