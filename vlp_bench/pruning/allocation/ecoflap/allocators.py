"""ECoFLaP (Sung et al., ICLR 2024): how sensitive the loss is to a block decides how much of the block stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from vlp_bench.pruning.allocation.budgets import exactly, grouped, kept_of, share_out
from vlp_bench.pruning.allocation.ecoflap.proportional_budgets import proportional_budgets, released_ratios
from vlp_bench.pruning.allocation.ecoflap.sensitivity import KeepIn, Losses, losses_around
from vlp_bench.pruning.checks import Compat, check_choice, check_compat, check_counts, check_positive
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.gradients import SIZES, GradientSizes

Granularity = Literal["layer", "block", "model"]
Importance = Literal["gradient", "magnitude", "squared"]
Reduce = Literal["sum", "avg"]
GroupBy = Literal["model", "modality"]
FREEDOM = 0.1  # how far the released scripts let a group go above the target


@dataclass(frozen=True, kw_only=True)
class ProportionalBudgets:
    """Importances of layers turned into budgets: what the two allocators have in common.

    Args:
        granularity: what has one sparsity: a "layer", a "block", or a whole "model" (all layers of a modality).
        max_sparsity: the most that a group loses; None: 0.1 above the target, as in all of the paper's scripts.
        importance: "gradient": how much the loss moves; "magnitude": that times |w|; "squared": times w², squared.
        reduce: a group's importance is the "sum" over its layers, or that per weight ("avg").
        group_by: whether the groups of the whole model compete for one budget, or those of each modality.
        compat: "official" repeats the released code's rounding, which gives out some weights too many: a group's
            sparsity is a float32 ratio, by which each of its layers is cut.
    """

    granularity: Granularity = "block"
    max_sparsity: float | None = None
    importance: Importance = "gradient"
    reduce: Reduce = "sum"
    group_by: GroupBy = "model"
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        for what, allowed in (("granularity", Granularity), ("importance", Importance), ("reduce", Reduce)):
            check_choice(what, getattr(self, what), get_args(allowed))
        check_choice("group_by", self.group_by, get_args(GroupBy))
        if self.max_sparsity is not None and not 0 < self.max_sparsity <= 1:
            raise ValueError(f"max_sparsity must be above 0 and at most 1, got {self.max_sparsity}")

    def check_sparsity(self, sparsity: float) -> None:
        """Raises ValueError for a sparsity above max_sparsity; no model is needed."""
        if self.max_sparsity is not None and self.max_sparsity < sparsity:
            raise ValueError(
                f"max_sparsity is {self.max_sparsity:g}, below the sparsity of {sparsity:g} that is asked for: at "
                "least that much, or null for 0.1 above it"
            )

    def budgets(self, layers: Mapping[str, Layer], importances: Mapping[str, float], sparsity: float) -> dict[str, int]:
        """Kept weights per layer from one importance for each.

        Raises:
            ValueError: max_sparsity is below the target.
        """
        self.check_sparsity(sparsity)
        limit = self._limit(sparsity)
        kept: dict[str, int] = {}
        for competitors in grouped(layers.values(), self.group_by):
            groups = self._groups(competitors)
            sizes = [sum(layer.size for layer in group) for group in groups]
            scores = [self._score(group, size, importances) for group, size in zip(groups, sizes, strict=True)]
            kept |= self._counts(groups, scores, sizes, sparsity, limit)
        return {name: kept[name] for name in layers}

    def _counts(
        self, groups: list[list[Layer]], scores: list[float], sizes: list[int], sparsity: float, limit: float
    ) -> dict[str, int]:
        """Kept weights of every layer of the groups."""
        if self.compat == "official":
            ratios = released_ratios(scores, sizes, int(sum(sizes) * (1 - sparsity)), limit)
            return {
                x.name: x.size - int(x.size * ratio) for own, ratio in zip(groups, ratios, strict=True) for x in own
            }
        return share_out(groups, proportional_budgets(scores, sizes, kept_of(sum(sizes), sparsity), limit))

    def may_give(self, calibration: Calibration, sparsity: float) -> range:
        """The budgets of the competitors. Official: up to one more for each layer, and what it rounds up twice."""
        competitors = grouped(calibration.layers.values(), self.group_by)
        budget = sum(kept_of(sum(layer.size for layer in own), sparsity) for own in competitors)
        if self.compat == "corrected":
            return exactly(budget)
        groups = sum(len(self._groups(own)) for own in competitors)
        return range(budget - groups, budget + 3 * groups + len(calibration.layers) + 1)

    def may_differ(self, calibration: Calibration, sparsity: float) -> bool:
        """Whether groups compete, with room to differ."""
        competitors = grouped(calibration.layers.values(), self.group_by)
        return self._limit(sparsity) > sparsity and any(len(self._groups(own)) > 1 for own in competitors)

    def _limit(self, sparsity: float) -> float:
        return min(1.0, sparsity + FREEDOM) if self.max_sparsity is None else self.max_sparsity

    def _groups(self, layers: list[Layer]) -> list[list[Layer]]:
        return grouped(layers, "modality" if self.granularity == "model" else self.granularity)

    def _score(self, group: list[Layer], size: int, importances: Mapping[str, float]) -> float:
        score = sum(importances[layer.name] for layer in group)
        if self.compat == "official":  # float32, one layer after the other
            score = sum((torch.tensor(importances[layer.name]) for layer in group), torch.tensor(0.0))
        return float(score / size if self.reduce == "avg" else score)


@dataclass(frozen=True)
class LossesAround:
    """Statistic: `losses_around` with these options; where outputs wait changes nothing."""

    epsilon: float
    draws: int
    noises: int
    seed: int
    compat: Compat
    keep_in: KeepIn = field(compare=False)

    def of(self, calibration: Calibration) -> Losses:
        """Measured on this calibration's batches."""
        return losses_around(calibration, **vars(self))


@dataclass(frozen=True, kw_only=True)
class BlockSensitivity(ProportionalBudgets):
    """Zeroth order: Σ |L(W + εz) - L(W - εz)| / 2ε over random directions z (ECoFLaP, Algorithm 1).

    Args:
        epsilon: ε.
        draws: random directions for each matrix. One has a relative error of 0.75; the paper's scripts draw 2 to 4.
        noises: how many consecutive draws share a batch.
        seed: owner of the draws.
        keep_in: where one batch's outputs of all blocks wait, to be given again: "disk" (a temporary folder) or
            "memory" (the model's device).
    """

    epsilon: float = 1e-3
    draws: int = 4
    noises: int = 1
    seed: int = 0
    keep_in: KeepIn = "disk"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("keep_in", self.keep_in, get_args(KeepIn))
        check_positive(epsilon=self.epsilon)
        check_counts(draws=self.draws, noises=self.noises)

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        return self.budgets(calibration.layers, self.importances(calibration), sparsity)

    def importances(self, calibration: Calibration) -> dict[str, float]:
        """One number for each layer; measured once for each calibration."""
        losses = self._losses(calibration)
        found = {}
        for name, layer in calibration.layers.items():
            slopes = [abs(plus - minus) / (2 * self.epsilon) for plus, minus in losses[name]]
            if self.compat == "official":
                found[name] = self._released(layer, slopes)
            elif self.importance == "gradient":
                found[name] = sum(slopes)
            elif self.importance == "magnitude":
                found[name] = float(layer.matrix.abs().sum()) * sum(slopes)
            else:
                found[name] = float(layer.matrix.square().sum()) * sum(slopes) ** 2
        return found

    def _released(self, layer: Layer, slopes: Sequence[float]) -> float:
        """The importance with the sums of the released code, in float32."""
        slope, w = (
            sum((torch.tensor(slope) for slope in slopes), torch.tensor(0.0)).to(layer.weight.device),
            layer.matrix,
        )
        if self.importance == "gradient":
            return float(slope)
        return float((w.abs() * slope if self.importance == "magnitude" else w.square() * slope.square()).sum())

    def _losses(self, calibration: Calibration) -> Losses:
        options = (self.epsilon, self.draws, self.noises, self.seed, self.compat)
        return calibration[LossesAround(*options, self.keep_in)]


@dataclass(frozen=True, kw_only=True)
class BlockGradient(ProportionalBudgets):
    """First order: the size of a layer's gradient, Σ|g|, Σ|w·g| or Σ(w·g)² over its weights, the mean over batches."""

    importance: Importance = "magnitude"

    def __call__(self, calibration: Calibration, sparsity: float) -> dict[str, int]:
        """Kept weights per layer."""
        number = SIZES.index(self.importance)
        sizes = {name: float(sizes[number]) for name, sizes in calibration[GradientSizes()].items()}
        return self.budgets(calibration.layers, sizes, sparsity)
