"""A smaller dense model from masks: units that nobody reads any more are cut out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from vlp_bench.models.units import find_units, shrink
from vlp_bench.pruning.layers import parameters_by_name
from vlp_bench.pruning.solution import check_fit
from vlp_bench.pruning.structured.groups import dead_units

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def kept_units(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which units stay, by group, of those groups that lose some; at least one of each stays."""
    parameters = parameters_by_name(model)
    own = check_fit(masks, parameters)
    by_identity = {id(parameters[own[name]]): mask.cpu() for name, mask in masks.items()}
    found = {}
    for group in find_units(model):
        dead = dead_units(group, by_identity)
        if bool(dead.any()):
            found[group.name] = (~dead).nonzero().flatten() if not bool(dead.all()) else torch.tensor([0])
    return found


def materialised(model: AnyModule, masks: Mapping[str, Tensor]) -> AnyModule:
    """A smaller copy that gives the outputs of the model under its masks, up to rounding.

    Args:
        model: with the masks (and new weights) installed; it stays as it is.
        masks: any; what they remove beside whole units stays as zeros.

    Raises:
        ValueError: the masks don't fit the model, or no unit has lost all that is read of it.
    """
    kept = kept_units(model, masks)
    if not kept:
        raise ValueError(
            "no whole attention head or feed-forward neuron is gone under this mask, so nothing gets smaller: "
            "prune by units, as with pruner=flap or pruner=wanda_sp"
        )
    small = copy.deepcopy(model)
    shrink(small, kept)
    return small
