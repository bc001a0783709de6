"""Budgets that follow from the layers' sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlp_bench.pruning.allocation.budgets import apportion, exactly, kept_of
from vlp_bench.pruning.checks import Compat, check_choice, check_compat
from vlp_bench.pruning.statistics.calibration import Calibration

Truncate = Literal["kept", "removed"]


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Every layer keeps all it has, whatever the sparsity: the dense model."""

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        return {name: layer.size for name, layer in calibration.layers.items()}

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """All there is."""
        return exactly(calibration.total)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every layer keeps the same share."""

    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        return {name: kept_of(layer.size, sparsity, self.compat) for name, layer in calibration.layers.items()}

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """The sum of the layers' own budgets."""
        return exactly(sum(kept_of(layer.size, sparsity, self.compat) for layer in calibration.layers.values()))


@dataclass(frozen=True, kw_only=True)
class GlobalBudget:
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
        sizes = [layer.size for layer in calibration.layers.values()]
        return dict(zip(calibration.layers, apportion(self._kept(calibration.total, sparsity), sizes), strict=True))

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """The budget, in official mode as the released code truncates it."""
        return exactly(self._kept(calibration.total, sparsity))

    def _kept(self, total: int, sparsity: float) -> int:
        released = self.compat == "official" and self.truncate == "kept"
        return int((1 - sparsity) * total) if released else kept_of(total, sparsity, self.compat)
