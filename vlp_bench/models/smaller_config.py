"""The configuration of transformers for a model whose heads and neurons were cut, where there is one."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch

from vlp_bench.models.units import HEADS, Group, find_units

WIDTHS = ("intermediate_size", "d_ff", "ffn_dim")
SIDES = ("encoder", "decoder")  # each with a width of its own, as BART's
RATIO = "mlp_ratio"  # the width as a whole number of hidden sizes (DINOv2)
PACKED = "or write the pruned model with --as packed"
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
    wanted = _shapes(type(model), config, found)
    for name, tensor in model.state_dict().items():
        if tuple(tensor.shape) != wanted.get(name):
            told = f"{type(config).__name__} can't say that {name!r} is {tuple(tensor.shape)}"
            raise ValueError(f"{told}: {_cure(name, found, config)}; {PACKED}")
    return config


def _shapes(kind: type, config: Any, groups: list[Group]) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a model that the configuration makes, by name."""
    try:
        with torch.device("meta"):
            likeness = kind(copy.deepcopy(config))
    except ValueError as reason:
        why = str(reason).strip().rstrip(".")
        told = f"{kind.__name__} refuses the sizes that are left ({why})"
        raise ValueError(f"{told}: {_neurons_only(_heads(groups))}; {PACKED}") from reason
    return {name: tuple(tensor.shape) for name, tensor in likeness.state_dict().items()}


def _heads(groups: list[Group]) -> list[str]:
    return [group.name.removesuffix(f" {HEADS}") for group in groups if group.what == HEADS]


def _neurons_only(heads: list[str]) -> str:
    patterns = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", block) for block in heads)
    return f"a head has hidden_size / heads there, so prune neurons only, with leave=[{','.join(patterns)}]"


def _cure(name: str, groups: list[Group], config: Any) -> str:
    """What to prune so that a configuration can tell it, by the layer that it can't."""
    heads = _heads(groups)
    if any(name.startswith(f"{block}.") for block in heads):
        return _neurons_only(heads)
    hidden = getattr(config, "hidden_size", None)
    whole = f", a multiple of hidden_size ({hidden})" if hasattr(config, RATIO) and hidden else ""
    return (
        f"its layers have one width{whole}, so prune all alike, with pruner=wanda_sp or pruner.allocate.between=group"
    )


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
            f"{_fitting(before.get_text_config())}, {PACKED}"
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
    neurons = [group for group in groups if group.what != HEADS]
    widths = {group.units for group in neurons}
    heads = {group.units for group in groups if group.what == HEADS}
    for name in WIDTHS:
        if hasattr(config, name) and len(widths) == 1:
            setattr(config, name, *widths)
            break
    for side in SIDES:
        own = {group.units for group in neurons if f"{side}." in group.name}
        if hasattr(config, f"{side}_ffn_dim") and len(own) == 1:
            setattr(config, f"{side}_ffn_dim", *own)
    hidden = getattr(config, "hidden_size", None)
    if hasattr(config, RATIO) and isinstance(hidden, int) and len(widths) == 1 and min(widths) % hidden == 0:
        setattr(config, RATIO, min(widths) // hidden)
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
