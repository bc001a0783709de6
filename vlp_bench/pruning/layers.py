"""What can be pruned: the layers of any model, found by the identity of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from vlp_bench.batch import Place
from vlp_bench.pruning.adapter import Adapter, PlainAdapter, adapter_for, is_conv1d

__all__ = [
    "Adapter",
    "Layer",
    "Place",
    "PlainAdapter",
    "Reader",
    "adapter_for",
    "find_layers",
    "is_conv1d",
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
    """One prunable weight. A tied weight is one layer with several readers."""

    name: str  # the first of its names in model.named_parameters()
    weight: nn.Parameter
    place: Place
    readers: tuple[Reader, ...]
    transposed: bool = False  # stored as (d_in, d_out)

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


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter under every one of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


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


def _orientation(name: str, readers: list[Reader]) -> bool:
    ways = {is_conv1d(reader.module) for reader in readers}
    if len(ways) > 1:
        raise ValueError(f"{name!r} is read both as (d_out, d_in) and as (d_in, d_out): leave it out in prunable()")
    return ways.pop()


def _check(name: str, parameter: nn.Parameter | None) -> nn.Parameter:
    if parameter is None:
        raise ValueError(f"the adapter calls {name!r} prunable, but the model has no parameter of that name")
    if isinstance(parameter, UninitializedParameter):
        raise ValueError(f"{name!r} has no shape yet (a lazy layer): run a batch through the model first")
    if parameter.ndim != 2 or not parameter.is_floating_point():
        raise ValueError(
            f"{name!r} can't be pruned: a floating-point matrix is needed, it is {parameter.dtype} "
            f"of shape {tuple(parameter.shape)}; leave it out in the adapter's prunable()"
        )
    if parameter.is_meta:
        raise ValueError(
            f"{name!r} is on the meta device, where it has no values: load the weights first, "
            "as with model.to_empty(device=...) and model.load_state_dict(...)"
        )
    if not torch.isfinite(parameter.detach().sum()) and not torch.isfinite(parameter.detach()).all():
        raise ValueError(f"the weights of {name!r} hold NaN or infinity: the model can't be pruned")
    return parameter


def find_layers(model: nn.Module, adapter: Adapter | None = None) -> dict[str, Layer]:
    """The prunable layers by canonical name, in the order of `model.named_parameters()`.

    Raises:
        ValueError: there are none, a name is unknown, a parameter is no floating-point matrix or has no values (meta
            device), a weight isn't finite.
    """
    answers = adapter_for(model, adapter)
    known, readers = parameters_by_name(model), _readers(model)
    wanted = {id(_check(name, known.get(name))) for name in answers.prunable(model)}
    if not wanted:
        raise ValueError(f"{type(model).__name__} has no prunable layer: the adapter's prunable() named none")
    layers = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in wanted:
            modules = readers[id(parameter)]
            layers[name] = Layer(name, parameter, answers.place(name), tuple(modules), _orientation(name, modules))
    return layers


def writes_of(tensor: Tensor) -> int:
    """PyTorch's count of writes to a tensor; 0 always for one made in inference mode, which has none."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def preserve_weights(layers: Mapping[str, Layer]) -> Iterator[None]:
    """Gives the weights of `layers`, and the biases beside them, their values back in the end."""
    biases = {id(bias): bias for layer in layers.values() for bias in layer.biases}
    before = [
        (tensor, tensor.detach().clone()) for tensor in (*[own.weight for own in layers.values()], *biases.values())
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)
