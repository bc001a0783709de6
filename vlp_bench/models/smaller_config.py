"""The configuration of transformers for a model whose heads and neurons were cut, where there is one."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch

from vlp_bench.models.units import HEADS, Group, find_units

WIDTHS = ("intermediate_size", "d_ff", "ffn_dim")
COUNTS = ("num_attention_heads", "num_key_value_heads", "num_heads")


def smaller_config(model: Any) -> Any:
    """A copy of `model.config` that makes a model of these shapes.

    Raises:
        ValueError: there is none, as every layer of a configuration has the same widths; names the first that differs.
    """
    config, found = copy.deepcopy(model.config), find_units(model)
    for part, groups in _parts(config, found):
        _set(part, groups)
    _check_own_rules(config, model.config)
    with torch.device("meta"):
        likeness = type(model)(copy.deepcopy(config))
    wanted = {name: tuple(tensor.shape) for name, tensor in likeness.state_dict().items()}
    for name, tensor in model.state_dict().items():
        if tuple(tensor.shape) != wanted.get(name):
            raise ValueError(
                f"{type(config).__name__} can't say that {name!r} is {tuple(tensor.shape)}: {_cure(name, found)}; or "
                "write the pruned model with --as packed"
            )
    return config


def _cure(name: str, groups: list[Group]) -> str:
    """What to prune so that a configuration can tell it, by the layer that it can't."""
    heads = [group.name.removesuffix(f" {HEADS}") for group in groups if group.what == HEADS]
    if any(name.startswith(f"{block}.") for block in heads):
        patterns = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", block) for block in heads)
        return f"a head has hidden_size / heads there, so prune neurons only, with leave=[{','.join(patterns)}]"
    return "its layers have one width, so prune all alike, with pruner=wanda_sp or pruner.allocate.between=group"


def _check_own_rules(config: Any, before: Any) -> None:
    """Some want a width that the heads divide, whatever the width of a head is."""
    validate = getattr(config, "validate", None)
    if validate is None:
        return
    try:
        validate()
    except Exception as reason:  # of a library that transformers needs and we don't name
        why = str(reason.__cause__ or reason).strip().rstrip(".")
        raise ValueError(
            f"{type(config).__name__} refuses the sizes that are left ({why}): prune to another sparsity"
            f"{_fitting(before.get_text_config())}, or write the pruned model with --as packed"
        ) from reason


def _fitting(config: Any) -> str:
    """The sparsities that leave a number of heads which divides the width, where both are told."""
    width, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    if not isinstance(width, int) or not isinstance(heads, int):
        return ""
    units = getattr(config, "num_key_value_heads", None) or heads
    left = [count for count in range(units - 1, 0, -1) if width % (count * heads // units) == 0]
    shares = ", ".join(f"{1 - count / units:.4g} ({count * heads // units} of {heads} heads)" for count in left[:4])
    return f" that leaves every layer alike, with pruner=wanda_sp: {shares}" if left else ""


def _parts(config: Any, groups: list[Group]) -> Iterator[tuple[Any, list[Group]]]:
    """The configuration's parts (of towers) and their groups; itself where it has none."""
    towers = [(name.removesuffix("_config"), own) for name in getattr(config, "sub_configs", {})
              if (own := getattr(config, name, None)) is not None]  # fmt: skip
    if not towers:
        yield config, groups
    for tower, own in towers:
        yield own, [group for group in groups if tower in group.name.partition(".")[0]]


def _set(config: Any, groups: list[Group]) -> None:
    """Widths and counts of the groups, if all of a kind have one."""
    neurons = {group.units for group in groups if group.what != HEADS}
    heads = {group.units for group in groups if group.what == HEADS}
    if len(neurons) == 1:
        for name in WIDTHS:
            if hasattr(config, name):
                setattr(config, name, neurons.pop())
                break
    if len(heads) == 1:
        _set_heads(config, heads.pop())


def _set_heads(config: Any, units: int) -> None:
    """The numbers of heads; the width of one stays where the configuration tells it."""
    old = (
        getattr(config, "num_key_value_heads", None) or getattr(config, "num_heads", None) or config.num_attention_heads
    )
    new = {
        name: getattr(config, name) * units // old for name in COUNTS if isinstance(getattr(config, name, None), int)
    }
    for name, count in new.items():  # two names can be one number
        setattr(config, name, count)
