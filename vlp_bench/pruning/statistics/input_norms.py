"""Sees what reaches a layer: one sum of squares per distinct input tensor, nothing kept of the tensors themselves."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vlp_bench.pruning.layers import Layer, Reader, is_conv1d

Mask = Callable[[str, int], "Tensor | None"]  # (layer, tokens) -> (rows, tokens) bool
CACHED = 1 << 16  # floats that a processor squares in one go: they stay in its cache
FOLDED = 32  # such pieces are added up in float32 before float64


def sum_of_squares(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """(d,) float64 sum of x² over rows and tokens, x (rows, ..., d); tokens with a false mask don't count.

    A masked token may hold anything, NaN included. On a processor squares are added where they arise, in its cache.
    """
    x = _counted(x, mask)
    width = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = max(1, CACHED // x.shape[1])
    if len(x) <= rows or x.device.type != "cpu":
        return x.to(width).square().sum(0).double()
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for piece in x.split(FOLDED * rows):
        sums = torch.zeros(rows, x.shape[1], dtype=width)
        for part in piece.split(rows):
            part = part.to(width)
            (sums if len(part) == rows else sums[: len(part)]).addcmul_(part, part)
        total += sums.sum(0)
    return total


def _counted(x: Tensor, mask: Tensor | None) -> Tensor:
    """(n, d): the tokens that count."""
    x = x.detach().reshape(-1, x.shape[-1])
    return x if mask is None or mask.all() else x.index_select(0, mask.to(x.device).reshape(-1).nonzero().view(-1))


def sum_of_products(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """(d, d) float64 sum of x xᵀ over rows and tokens, x (rows, ..., d); tokens with a false mask don't count."""
    x = _counted(x, mask)
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(4096):
        part = part.double()
        total.addmm_(part.t(), part)
    return total


def by_first_reader(layers: Iterable[Layer]) -> list[Layer]:
    """The layers with their first reader alone.

    The released MULTIFLOW records what BLIP's encoder and decoder share in the encoder only.
    """
    return [replace(layer, readers=layer.readers[:1]) for layer in layers]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A sum that is known already: of which tensor, in which state, under which mask."""

    tensor: weakref.ref[Tensor]
    version: int
    mask: Tensor | None
    total: Tensor

    def answers(self, x: Tensor, mask: Tensor | None) -> bool:
        if self.tensor() is not x or self.version != _version(x):
            return False
        if self.mask is None or mask is None:
            return self.mask is mask
        return self.mask is mask or torch.equal(self.mask, mask)


class InputNorms:
    """Running sums of squared inputs per layer, and the number of rows they come from."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = list(layers)
        self.sums: dict[str, Tensor] = {}  # (d_in,) float64
        self.rows: dict[str, int] = {}
        self.journal: list[tuple[str, int, Tensor]] | None = None  # where calls wait instead of being added
        self._mask: Mask = lambda name, tokens: None
        self._seen: dict[int, _Seen] = {}

    @contextmanager
    def watching(self) -> Iterator[InputNorms]:
        """Hooks every reader of every layer; whatever happens, the hooks go again."""
        handles: list[RemovableHandle] = []
        try:
            for layer in self.layers:
                handles += [watch(layer.name, reader, self._add) for reader in layer.readers]
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    def new_part(self, mask: Mask) -> None:
        """Says which tokens count in the forward pass that follows."""
        self._mask = mask
        self._seen.clear()

    def _add(self, name: str, x: Tensor) -> None:
        rows = x.shape[0] if x.ndim > 1 else 1
        tokens = x.numel() // max(1, rows * x.shape[-1])
        self.take(name, rows, self._total(x, self._mask(name, tokens)))

    def take(self, name: str, rows: int, total: Tensor) -> None:
        """Add what one call of a reader gave."""
        if self.journal is not None:
            self.journal.append((name, rows, total))
            return
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.rows[name] = self.rows.get(name, 0) + rows

    def _measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return sum_of_squares(x, mask)

    def _total(self, x: Tensor, mask: Tensor | None) -> Tensor:
        seen = self._seen.get(id(x))
        if seen is not None and seen.answers(x, mask):
            return seen.total
        total = self._measure(x, mask)
        self._seen[id(x)] = _Seen(weakref.ref(x), _version(x), mask, total)
        return total


class InputProducts(InputNorms):
    """Running sums of the products of inputs per layer, (d_in, d_in) float64."""

    def _measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return sum_of_products(x, mask)


class InputOrder(InputNorms):
    """Which layers are reached, in order: the keys of `sums`."""

    def _add(self, name: str, x: Tensor) -> None:
        self.sums.setdefault(name, x.new_zeros(()))


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def watch(name: str, reader: Reader, take: Callable[[str, Tensor], None]) -> RemovableHandle:
    """Calls `take(name, x)` with x (rows, ..., d_in) whenever the reader is about to map x with the weight.

    To be used where no gradients are asked for.
    Raises ValueError when it can't be known what reaches the weight.
    """
    module = reader.module
    if isinstance(module, nn.MultiheadAttention):
        seen = _attention_input(name, reader.attribute)
    elif isinstance(module, nn.Linear) or is_conv1d(module):
        seen = _only_input
    else:
        raise ValueError(
            f"the inputs of {name!r} can't be seen: {type(module).__name__} reads it in a way of its own; "
            "use a pruner without activations, or leave it out in the adapter's prunable()"
        )

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        take(name, seen(module, args, kwargs))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _only_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else next(iter(kwargs.values()))


def _attention_input(name: str, attribute: str) -> Callable[..., Tensor]:
    """What reaches one of the four projections of `nn.MultiheadAttention`, which calls none of them as a module."""

    def seen(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if attribute == "out_proj.weight":
            return _rows_first(module, _before_output(module, args, kwargs))
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        query, key, value = given["query"], given["key"], given["value"]
        if attribute == "in_proj_weight" and not (query is key is value):
            raise ValueError(
                f"{name!r} packs three projections that read different tensors here: use a pruner without "
                "activations, or leave it out in the adapter's prunable()"
            )
        return _rows_first(module, {"k_proj_weight": key, "v_proj_weight": value}.get(attribute, query))

    return seen


def _rows_first(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    return x if module.batch_first or x.ndim < 3 else x.transpose(0, 1)


def _before_output(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The module's own result with the identity in place of its output projection."""
    kept = {parameter: parameter.data for parameter in module.out_proj.parameters()}
    try:
        for parameter, values in kept.items():
            matrix = parameter is module.out_proj.weight
            parameter.data = torch.eye(len(values)).to(values) if matrix else torch.zeros_like(values)
        return module.forward(*args, **kwargs)[0]
    finally:
        for parameter, values in kept.items():
            parameter.data = values
