"""Units: attention heads and feed-forward neurons with everything that must go together, found in the module tree.

A unit is the same place in several parameters: rows of the layers that make it, with their biases, and columns of the
layer that reads it. Without its columns a unit has no effect, and then its rows can go too: the model gets smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

NEURONS, HEADS = "neurons", "heads"
ELEMENTWISE = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Kind:
    """How a kind of block is laid out; paths are from the block.

    Attributes:
        what: "heads" or "neurons".
        makes: linear layers whose rows are the units, one after the other. With `parts` above 1 each part of the rows
            has all of them (a fused weight).
        reads: the linear layer whose columns are the units.
        head: where the width of a head is told; "" for neurons.
        counts: numbers in the block that grow with its units.
    """

    what: str
    makes: tuple[str, ...]
    reads: str
    parts: int = 1
    head: str = ""
    counts: tuple[str, ...] = ()


SPLIT = ("q_proj", "k_proj", "v_proj")
KINDS = (
    *(
        Kind(  # BERT's layers, X-VLM's fusion, BLIP's text towers; a Q-Former, transformers' ViT
            HEADS,
            (f"{self}.query", f"{self}.key", f"{self}.value"),
            "output.dense",
            head=f"{self}.attention_head_size",
            counts=(f"{self}.num_attention_heads", f"{self}.all_head_size"),
        )
        for self in ("self", "attention")
    ),
    Kind(HEADS, SPLIT, "out_proj", head="head_dim", counts=("num_heads",)),  # CLIP
    Kind(HEADS, SPLIT, "o_proj", head="head_dim"),  # Llama: a key-value head with all its queries
    Kind(HEADS, SPLIT, "projection", head="head_width", counts=("heads",)),  # DINO
    Kind(HEADS, ("qkv",), "projection", parts=3, head="head_width", counts=("heads",)),  # BLIP
    Kind(HEADS, ("q", "k", "v"), "o", head="key_value_proj_dim", counts=("n_heads", "inner_dim")),  # T5
    Kind(NEURONS, ("fc1",), "fc2"),  # vision transformers, CLIP, OPT
    Kind(NEURONS, ("intermediate.dense",), "output.dense"),  # BERT
    Kind(NEURONS, ("intermediate_query.dense",), "output_query.dense"),  # Q-Former
    Kind(NEURONS, ("gate_proj", "up_proj"), "down_proj"),  # Llama
    Kind(NEURONS, ("gate_up_proj",), "down_proj", parts=2),  # Phi
    Kind(NEURONS, ("wi_0", "wi_1"), "wo"),  # FlanT5
    Kind(NEURONS, ("wi",), "wo"),  # T5
    Kind(NEURONS, ("linear1",), "linear2"),  # nn.TransformerEncoderLayer
)


@dataclass(frozen=True, eq=False)
class Slices:
    """Where the units of a group lie in one parameter: along `dim`, one after the other, in each of `parts` parts."""

    parameter: Tensor
    dim: int
    parts: int = 1
    reads: bool = False  # whether these are the columns of the layer that reads the units

    @property
    def key(self) -> tuple[int, int]:
        """The same for the same place."""
        return id(self.parameter), self.dim

    def width(self, units: int) -> int:
        """How many rows or columns a unit has in each part."""
        return self.parameter.shape[self.dim] // (self.parts * units)

    def places(self, units: int, which: Tensor) -> Tensor:
        """Indices along `dim` of these of the `units`, in the parameter's order."""
        width = self.width(units)
        own = (which[:, None] * width + torch.arange(width)).reshape(-1)
        return (torch.arange(self.parts)[:, None] * (width * units) + own).reshape(-1)

    def by_unit(self, units: int, tensor: Tensor) -> Tensor:
        """(units, ...) what is of each unit in a tensor of the parameter's shape."""
        moved = tensor.movedim(self.dim, 0)
        return moved.reshape(self.parts, units, -1, *moved.shape[1:]).transpose(0, 1).flatten(1)


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are alike: the heads of an attention, the neurons of a feed-forward network.

    Attributes:
        name: the block's, and what the units are.
        what: "heads" or "neurons".
        units: how many.
        slices: where they lie.
        counts: (module, attribute, its value for each unit): numbers that are set when the group gets smaller.
        linked: groups with the same word here must lose the same units, and are one.
    """

    name: str
    what: str
    units: int
    slices: tuple[Slices, ...]
    counts: tuple[tuple[nn.Module, str, int], ...] = field(default=(), repr=False)
    linked: str = ""


def find_units(model: nn.Module) -> list[Group]:
    """The groups of units, in the order of the modules. Those that share a parameter are one group.

    So are tied towers, and T5's self-attentions of a stack: all of them add one table of position biases.
    """
    found: list[Group] = []
    for name, module in model.named_modules():
        found += [group for kind in KINDS if (group := _group(name, module, kind)) is not None]
        if isinstance(module, nn.Sequential):
            found += _pairs(name, module)
    return _merged(_with_position_biases(model, found))


def _group(name: str, module: nn.Module, kind: Kind) -> Group | None:
    """The units of a block, if it is of the kind."""
    makes, reads = [_linear(module, path) for path in kind.makes], _linear(module, kind.reads)
    if reads is None or any(layer is None for layer in makes):
        return None
    own = [layer for layer in makes if layer is not None]
    width = _number(module, kind.head) if kind.head else 1
    if not width:
        return None
    units = min(layer.out_features for layer in own) // kind.parts // width
    if not units or any(n % (units * width) for n in (reads.in_features, *(x.out_features // kind.parts for x in own))):
        return None
    counts = [(module.get_submodule(p.rpartition(".")[0]), p.rpartition(".")[2]) for p in kind.counts]
    per_unit = tuple((owner, leaf, getattr(owner, leaf) // units) for owner, leaf in counts)
    return Group(f"{name} {kind.what}".strip(), kind.what, units, _slices(own, reads, kind.parts), per_unit)


def _slices(makes: Iterable[nn.Linear], reads: nn.Linear, parts: int = 1) -> tuple[Slices, ...]:
    rows = [Slices(own, 0, parts) for layer in makes for own in (layer.weight, layer.bias) if own is not None]
    return (*rows, Slices(reads.weight, 1, reads=True))


def _linear(module: nn.Module, path: str) -> nn.Linear | None:
    """The linear layer at a path; None where there is none, or its weight is no parameter (parametrised)."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None) if isinstance(found, nn.Module) else None
    return found if isinstance(found, nn.Linear) and isinstance(found.weight, nn.Parameter) else None


def _number(module: nn.Module, path: str) -> int:
    owner, _, leaf = path.rpartition(".")
    found = getattr(module.get_submodule(owner), leaf, 0)
    return found if isinstance(found, int) else 0


def _pairs(name: str, module: nn.Sequential) -> Iterator[Group]:
    """Linear, something elementwise, linear: neurons. A layer is of one pair only."""
    before: nn.Linear | None = None
    for layer in module:
        if isinstance(layer, nn.Linear):
            if before is not None and before.out_features == layer.in_features:
                place = next(number for number, own in module.named_children() if own is before)
                yield Group(
                    f"{name}.{place} {NEURONS}".lstrip("."), NEURONS, layer.in_features, _slices([before], layer)
                )
                before = None
            else:
                before = layer
        elif not isinstance(layer, ELEMENTWISE):
            before = None


def _with_position_biases(model: nn.Module, groups: Sequence[Group]) -> list[Group]:
    """T5's attentions, linked within a stack: all blocks add the first one's position biases, of so many heads.

    Those of self-attention are a table, which has a column for each head; those of cross-attention are zeros.
    """
    tables = {
        f"{name.partition('.block.')[0]}.block.": table
        for name, module in model.named_modules()
        if isinstance(table := getattr(module, "relative_attention_bias", None), nn.Embedding)
    }
    found = []
    for group in groups:
        for stack, table in tables.items():
            attention = group.name.removesuffix(f" {HEADS}").rpartition(".")[2]
            if group.what == HEADS and group.name.startswith(stack):
                more = (Slices(table.weight, 1),) if attention == "SelfAttention" else ()
                group = replace(group, slices=group.slices + more, linked=stack + attention)
        found.append(group)
    return found


def _merged(groups: Iterable[Group]) -> list[Group]:
    """Groups that share a place become one, under the first's name."""
    found: list[Group] = []
    for group in groups:
        keys = {own.key for own in group.slices}
        same = [o for o in found if keys & {s.key for s in o.slices} or (o.linked and o.linked == group.linked)]
        for other in same:
            if other.units != group.units:
                raise ValueError(
                    f"{other.name} and {group.name} share weights and have {other.units} and {group.units}"
                )
        parts = [*same, group]
        slices = {own.key: own for part in parts for own in part.slices}
        counts = tuple(count for part in parts for count in part.counts)
        whole = replace(parts[0], slices=tuple(slices.values()), counts=counts)
        place = found.index(same[0]) if same else len(found)
        found = [other for other in found if other not in same]
        found.insert(place, whole)
    return found


@torch.no_grad()
def shrink(model: nn.Module, kept: Mapping[str, Tensor]) -> nn.Module:
    """Cuts the model down to these units of the groups named, in place; returns it.

    The model remembers how many each group has (`unit_counts`), and its copies (momentum) are made anew.

    Raises:
        ValueError: the model has no such group, or a unit is none of it, or nothing would remain.
    """
    groups = {group.name: group for group in find_units(model)}
    new: dict[int, Tensor] = {}
    for name, which in kept.items():
        group = _known(groups, name, which)
        for own in group.slices:
            tensor = new.get(id(own.parameter), own.parameter.detach())
            places = own.places(group.units, which.to("cpu")).to(tensor.device)
            new[id(own.parameter)] = tensor.index_select(own.dim, places).contiguous()
        for module, attribute, per_unit in group.counts:
            setattr(module, attribute, per_unit * len(which))
    _replace(model, new)
    model.unit_counts = unit_counts(model) | {name: len(which) for name, which in kept.items()}  # pyright: ignore
    renew: Any = getattr(model, "renew_copies", None)
    if renew is not None:
        renew()
    return model


def unit_counts(model: nn.Module) -> dict[str, int]:
    """How many units are left of each group that was made smaller and that the model still has."""
    known: dict[str, int] = getattr(model, "unit_counts", {})
    names = {group.name for group in find_units(model)} if known else set[str]()
    return {name: count for name, count in known.items() if name in names}


def _known(groups: Mapping[str, Group], name: str, which: Tensor) -> Group:
    if name not in groups:
        raise ValueError(f"the model has no {name!r}: it has {', '.join(groups) or 'no units'}")
    if not len(which) or int(which.min()) < 0 or int(which.max()) >= groups[name].units:
        raise ValueError(f"{name!r} has units 0 to {groups[name].units - 1}, at least one of which stays; got {which}")
    return groups[name]


def _replace(model: nn.Module, new: Mapping[int, Tensor]) -> None:
    """Puts new parameters in the places of those with these identities, one for all of a tied one's names."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(old) in new:
                own = made.setdefault(id(old), nn.Parameter(new[id(old)], requires_grad=old.requires_grad))
                module.register_parameter(name, own)
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
