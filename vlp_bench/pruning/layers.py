"""What can be pruned: the layers of any model, found by the identity of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from vlp_bench.batch import Place
from vlp_bench.models.linear_layers import is_conv1d
from vlp_bench.models.offloading import offloaded
from vlp_bench.models.stacks import Stack, stack_of, stacks_in
from vlp_bench.pruning.adapter import Adapter, PlainAdapter, adapter_for

__all__ = [
    "Adapter",
    "Layer",
    "Place",
    "PlainAdapter",
    "Reader",
    "adapter_for",
    "find_layers",
    "give_back",
    "in_full",
    "parameters_by_name",
    "preserve_weights",
    "writes_of",
]


@dataclass(frozen=True, eq=False)
class Reader:
    """A module that uses a weight, and the name under which it does."""

    module: nn.Module
    attribute: str

    @property
    def bias(self) -> nn.Parameter | None:
        """What is added to the whole of its output, if it is a parameter of its own."""
        path, _, leaf = self.attribute.rpartition(".")
        if "weight" not in leaf:  # a matrix of a name of its own: nothing says which bias goes with it
            return None
        bias = getattr(self.module.get_submodule(path), leaf.replace("weight", "bias"), None)
        return bias if isinstance(bias, nn.Parameter) else None


@dataclass(frozen=True, eq=False)
class Layer:
    """One prunable weight. A tied weight is one layer with several readers, a slice of a stack one layer of many.

    Attributes:
        name: the first of its names in `model.named_parameters()`; of a slice that of its stack and its number.
        weight: the parameter; of a slice a view of its memory, which autograd doesn't know.
        place: modality and block.
        readers: who uses it.
        transposed: stored as (d_in, d_out).
        stack: the parameter (E, ...) that a slice is part of.
    """

    name: str
    weight: Tensor
    place: Place
    readers: tuple[Reader, ...]
    transposed: bool = False
    stack: nn.Parameter | None = None

    @property
    def parameter(self) -> nn.Parameter:
        """What autograd knows: the weight, or the stack that it is a slice of."""
        found = self.weight if self.stack is None else self.stack
        assert isinstance(found, nn.Parameter)
        return found

    def part_of(self, tensor: Tensor) -> Tensor:
        """The layer's own part of something in the shape of its parameter, a gradient."""
        place = stack_of(self.name) if self.stack is not None else None
        return tensor if place is None else tensor[place[1]]

    @property
    def matrix(self) -> Tensor:
        """(d_out, d_in) the weight's current values in float32 (float64 stays), without gradient."""
        weight = self.weight.detach()
        weight = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
        return weight.t() if self.transposed else weight

    def as_stored(self, matrix: Tensor) -> Tensor:
        """A (d_out, d_in) tensor in the orientation of the parameter."""
        return matrix.t().contiguous() if self.transposed else matrix

    def from_stored(self, tensor: Tensor) -> Tensor:
        """The inverse of `as_stored`."""
        return tensor.t() if self.transposed else tensor

    @property
    def biases(self) -> list[nn.Parameter]:
        """The biases that its readers add, each once."""
        found = [reader.bias for reader in self.readers]
        return list({id(bias): bias for bias in found if bias is not None}.values())

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weight.numel()


def parameters_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter under every one of its names, and a view of every slice of a stack."""
    slices = {name: part for stack in stacks_in(model, aliases=True) for name, part in stack.slices().items()}
    return dict(model.named_parameters(remove_duplicate=False)) | slices


def _readers(model: nn.Module) -> dict[int, list[Reader]]:
    """Who uses each parameter, by its identity. `nn.MultiheadAttention` reads its `out_proj` without calling it."""
    readers: dict[int, list[Reader]] = {}
    uncalled: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            readers.setdefault(id(module.out_proj.weight), []).append(Reader(module, "out_proj.weight"))
            uncalled.add(id(module.out_proj))
        if id(module) not in uncalled:
            for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                readers.setdefault(id(parameter), []).append(Reader(module, attribute))
    return readers


def _orientation(name: str, readers: Iterable[Reader]) -> bool:
    ways = {bool(is_conv1d(reader.module)) for reader in readers}
    if len(ways) > 1:
        raise ValueError(f"{name!r} is read both as (d_out, d_in) and as (d_in, d_out): leave it out in prunable()")
    return ways.pop()


def _check(name: str, parameter: nn.Parameter, ndim: int = 2, waits: bool = False) -> None:
    """Raises ValueError unless the parameter is a floating-point matrix (or a stack of them) that has values.

    `waits`: the model is offloaded, so that they come later.
    """
    if isinstance(parameter, UninitializedParameter):
        raise ValueError(f"{name!r} has no shape yet (a lazy layer): run a batch through the model first")
    if parameter.ndim != ndim or not parameter.is_floating_point():
        raise ValueError(
            f"{name!r} can't be pruned: a floating-point matrix is needed, it is {parameter.dtype} "
            f"of shape {tuple(parameter.shape)}; leave it out in the adapter's prunable()"
        )
    if parameter.is_meta:
        raise ValueError(
            f"{name!r} is on the meta device, where it has no values: load the weights first, "
            "as with model.to_empty(device=...) and model.load_state_dict(...)"
        )
    if not waits and any(step == 0 < size - 1 for step, size in zip(parameter.stride(), parameter.shape, strict=True)):
        raise ValueError(
            f"{name!r} is expanded: several of its entries are one number in memory, of which none can go alone; "
            "give them places of their own, as with weight.data = weight.data.clone()"
        )


def _check_finite(layers: Mapping[str, Layer]) -> None:
    """Raises ValueError for the first that has NaN or infinity; one look at the device."""
    if (
        not layers
        or torch.isfinite(torch.stack([layer.weight.detach().sum().double() for layer in layers.values()])).all()
    ):
        return
    for name, layer in layers.items():
        if not torch.isfinite(layer.weight.detach()).all():
            raise ValueError(f"the weights of {name!r} hold NaN or infinity: the model can't be pruned")


def _wanted(
    name: str, known: Mapping[str, nn.Parameter], stacks: Mapping[int, Stack], waits: bool
) -> tuple[int, Iterable[int]]:
    """What a name stands for: a parameter's identity, and which matrices of a stack."""
    own, numbers = known.get(name), None
    if own is None and (place := stack_of(name)) is not None:
        own, numbers = known.get(place[0]), [place[1]]
    if own is None or (numbers and (id(own) not in stacks or numbers[0] >= len(own))):
        raise ValueError(f"the adapter calls {name!r} prunable, but the model has no parameter of that name")
    if waits and id(own) in stacks:
        raise ValueError(f"{name!r} holds experts in one tensor, of which none can be offloaded: load the model whole")
    _check(name, own, 3 if id(own) in stacks else 2, waits)
    return id(own), numbers or range(len(own) if id(own) in stacks else 0)


def find_layers(model: nn.Module, adapter: Adapter | None = None) -> dict[str, Layer]:
    """The prunable layers by canonical name, in the order of `model.named_parameters()`.

    The adapter may name a stack of matrices as a whole or slice by slice.

    Raises:
        ValueError: there are none, a name is unknown, a parameter is no floating-point matrix or has no values (meta
            device), a weight isn't finite.
    """
    answers = adapter_for(model, adapter)
    known, readers = dict(model.named_parameters(remove_duplicate=False)), _readers(model)
    stacks = {id(stack.parameter): stack for stack in stacks_in(model)}
    wanted: dict[int, set[int]] = {}
    waits = offloaded(model) is not None
    for name in answers.prunable(model):
        which, numbers = _wanted(name, known, stacks, waits)
        wanted.setdefault(which, set()).update(numbers)
    if not wanted:
        raise ValueError(f"{type(model).__name__} has no prunable layer: the adapter's prunable() named none")
    layers: dict[str, Layer] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in wanted:
            place, modules = answers.place(name), tuple(readers[id(parameter)])
            if (stack := stacks.get(id(parameter))) is not None:
                layers |= _slices(stack, sorted(wanted[id(parameter)]), place, modules)
            else:
                layers[name] = Layer(name, parameter, place, modules, _orientation(name, modules))
    _check_finite({} if waits else layers)
    return layers


def _slices(stack: Stack, numbers: Iterable[int], place: Place, readers: tuple[Reader, ...]) -> dict[str, Layer]:
    named = list(stack.slices().items())
    return {
        name: Layer(name, part, place, readers, stack.transposed, stack.parameter)
        for name, part in (named[number] for number in numbers)
    }


def writes_of(tensor: Tensor) -> int:
    """PyTorch's count of writes to a tensor; 0 always for one made in inference mode, which has none."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def preserve_weights(layers: Mapping[str, Layer]) -> Iterator[dict[str, Tensor]]:
    """Gives the weights of `layers`, and the biases beside them, their values back in the end.

    Meanwhile the weights, by name and as stored.
    """
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    shared = {id(bias): bias for layer in layers.values() for bias in layer.biases}
    biases = [(bias, bias.detach().clone()) for bias in shared.values()]
    try:
        yield before
    finally:
        with torch.no_grad():
            for bias, values in biases:
                bias.copy_(values)
        give_back(layers, before)


def in_full(weight: Tensor) -> Tensor:
    """A weight with the digits of float32 or more, for steps too small for its own: itself where it has them."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


@torch.no_grad()
def give_back(layers: Mapping[str, Layer], values: Mapping[str, Tensor]) -> None:
    """Writes values, as stored, into the weights of their layers."""
    for name, own in values.items():
        layers[name].weight.copy_(own)
