"""TAMP's Diversity-Aware Sparsity (Lee et al., Findings of ACL 2025): layers whose output tokens differ stay denser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from vlp_bench.pruning.allocation.ecoflap.allocators import ProportionalBudgets, Reduce
from vlp_bench.pruning.checks import Compat, check_choice
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.similarities import OutputSimilarities

Importance = Literal["diversity", "equal"]


@dataclass(frozen=True, kw_only=True)
class DiversityBudgets:
    """ECoFLaP's share-out among layers, their importances (1 - s_v) + (1 - s_l) + (1 - s_vl) of `OutputSimilarities`.

    A layer that sees one modality alone has a third of the terms, which counts thrice.

    Args:
        importance: "diversity"; or "equal" for all layers: what the share-out does by itself, the row to compare with.
        reduce: importances as they are ("sum", as released: layers get equal counts before all else), or per weight
            ("avg": small layers stay denser still).
        max_sparsity: the most that a layer loses; None: 0.1 above the target.
        compat: "official" repeats the released code's rounding, which is ECoFLaP's.
    """

    importance: Importance = "diversity"
    reduce: Reduce = "sum"
    max_sparsity: float | None = None
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_choice("importance", self.importance, get_args(Importance))
        self._share_out()

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        return self._share_out().budgets(calibration.layers, self.importances(calibration), sparsity)

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """As ECoFLaP's share-out."""
        return self._share_out().may_give(calibration, sparsity)

    def may_differ(self, calibration: Calibration, sparsity: float) -> bool:
        """Whether layers of several sizes share, or what they give decides."""
        sizes = {layer.size for layer in calibration.layers.values()}
        return self._share_out().may_differ(calibration, sparsity) and not (
            self.importance == "equal" and len(sizes) == 1
        )

    def check_sparsity(self, sparsity: float) -> None:
        """Raises ValueError for a sparsity above max_sparsity; no model is needed."""
        self._share_out().check_sparsity(sparsity)

    def importances(self, calibration: Calibration) -> dict[str, float]:
        """One number for each layer."""
        if self.importance == "equal":
            return dict.fromkeys(calibration.layers, 1.0)
        return {name: diversity(own) for name, own in calibration[OutputSimilarities()].items()}

    def _share_out(self) -> ProportionalBudgets:
        return ProportionalBudgets(
            granularity="layer", reduce=self.reduce, max_sparsity=self.max_sparsity, compat=self.compat
        )


def diversity(similarities: Tensor) -> float:
    """3 · the mean of 1 - s over the similarities that are defined; 3, as of what has nothing in common, if none is."""
    defined = similarities[~similarities.isnan()]
    return 3 * max(0.0, float(1 - defined.mean())) if len(defined) else 3.0
