"""The units of a calibration's layers: which weights each has, what it costs, and the masks of those that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from vlp_bench.models.units import Group, Slices, find_units
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.calibration import Calibration

Keep = dict[str, Tensor]  # by group, (units,) bool


@dataclass(frozen=True, eq=False)
class Part:
    """The units of a group in one prunable layer."""

    layer: Layer
    slices: Slices

    def by_unit(self, units: int, matrix: Tensor) -> Tensor:
        """(units, ...) what is of each unit in something of the shape of the layer's matrix."""
        return self.slices.by_unit(units, matrix)


@dataclass(frozen=True, eq=False)
class PrunableGroup:
    """A group all of whose matrices may be pruned."""

    group: Group
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def units(self) -> int:
        return self.group.units

    @cached_property
    def cost(self) -> int:
        """Prunable weights of one unit."""
        return sum(part.layer.size for part in self.parts) // self.units

    @property
    def reads(self) -> Part:
        """The layer whose columns are the units."""
        return next(part for part in self.parts if part.slices.reads)


@dataclass(frozen=True)
class Units:
    """Statistic: the groups of units whose matrices are all among the calibration's layers."""

    def of(self, calibration: Calibration) -> list[PrunableGroup]:
        """In the order of the modules.

        Raises:
            ValueError: there is none.
        """
        layers = {id(layer.weight): layer for layer in calibration.layers.values()}
        found = []
        for group in find_units(calibration.model):
            matrices = [own for own in group.slices if _is_matrix(calibration.model, own)]
            if all(id(own.parameter) in layers for own in matrices):
                parts = tuple(Part(layers[id(own.parameter)], own) for own in matrices)
                found.append(PrunableGroup(group, parts))
        if not found:
            raise ValueError(
                "no attention heads or feed-forward neurons are known in these layers (see vlp_bench/models/units.py): "
                "use a pruner of single weights, or pruner/sweep=at_once where blocks hold parts of them"
            )
        return found


def _is_matrix(model: nn.Module, own: Slices) -> bool:
    """Whether it is a layer's weight: no bias, and no embedding."""
    tables = (module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    return own.parameter.ndim == 2 and all(own.parameter is not table for table in tables)


def masks_of(
    groups: Iterable[PrunableGroup], keep: Mapping[str, Tensor], layers: Mapping[str, Layer]
) -> dict[str, Tensor]:
    """Masks as stored of all layers: whole rows and columns of the units that go; other layers stay whole."""
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
    for group in groups:
        gone = (~keep[group.name]).nonzero().flatten().cpu()
        for part in group.parts:
            places = part.slices.places(group.units, gone).to(part.layer.weight.device)
            masks[part.layer.name].index_fill_(part.slices.dim, places, False)
    return masks


def dead_units(group: Group, masks: Mapping[int, Tensor]) -> Tensor:
    """(units,) bool: which units nobody reads under these masks, by the identity of the parameter."""
    columns = [own for own in group.slices if own.reads]
    if not all(id(own.parameter) in masks for own in columns):
        return torch.zeros(group.units, dtype=torch.bool)
    alive = [own.by_unit(group.units, masks[id(own.parameter)]).flatten(1).any(1) for own in columns]
    return ~torch.stack(alive).any(0)
