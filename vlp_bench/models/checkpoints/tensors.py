"""The tensors of a weight file by parameter name, for those who need no model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from vlp_bench.models.checkpoints.families import FAMILIES
from vlp_bench.models.checkpoints.locations import weight_file
from vlp_bench.models.checkpoints.read_write import CheckpointError, read_released


def tensors_of(place: Path | str, wanted: Collection[str]) -> dict[str, Tensor]:
    """What a weight file holds, in its own types, under names among which are the wanted ones.

    Args:
        place: a file of safetensors or of torch, ours, a released one or anybody's; pkg://package/file.
        wanted: names of parameters; a released file's names are translated until they are found.

    Raises:
        ValueError: no such file, a broken one, or one of another model.
    """
    path = weight_file(place)
    if not path.is_file():
        raise CheckpointError(path, "no such file", "check the path")
    roots = tuple(dict.fromkeys(root for family in FAMILIES for root in family.roots))
    state = read_released(path, roots)
    if missing := sorted(set(wanted) - state.keys()):
        for family in FAMILIES:
            try:
                mapped = family.key_map(dict(state))
            except ValueError:  # a family's way of saying that the file is none of its own
                continue
            if set(wanted) <= mapped.keys():
                return mapped
        raise CheckpointError(path, f"it holds no {missing[0]!r}", "give the checkpoint that was pruned")
    return state
