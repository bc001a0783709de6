"""What reaches a layer: its statistics, and the hooks that see it."""

from __future__ import annotations

import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vlp_bench.models.linear_layers import is_conv1d
from vlp_bench.pruning.checks import Compat, check_compat
from vlp_bench.pruning.layers import Layer, Reader, writes_of
from vlp_bench.pruning.precision import uncast
from vlp_bench.pruning.statistics.data_parallel import Event
from vlp_bench.pruning.statistics.protocol import LayerStatistic, Sums
from vlp_bench.pruning.statistics.slices import SlicesWatch
from vlp_bench.pruning.statistics.token_masks import TokenMasks
from vlp_bench.pruning.statistics.unseen import Unseen

CACHED = 1 << 16  # floats that a processor squares in one go: they stay in its cache
PIECE, TILE = 4096, 512  # tokens, and features, that are multiplied in one go
FOLDED = 32  # such pieces are added up in float32 before float64


def sum_of_squares(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """(d,) float64 sum of x² over rows and tokens, x (rows, ..., d); tokens with a false mask don't count.

    A masked token may hold anything, NaN included. On a processor squares are added where they arise, in its cache.
    """
    x = _counted(x, mask)
    if x.device.type != "cpu":
        return torch.linalg.vector_norm(x, dim=0, dtype=torch.float64).square_()
    width = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = max(1, CACHED // x.shape[1])
    if len(x) <= rows:
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
    """(n, d): the tokens that count. With the mask on the processor no device is waited for."""
    x = x.detach().reshape(-1, x.shape[-1])
    if mask is None or mask.all():
        return x
    return x.index_select(0, mask.reshape(-1).nonzero().view(-1).to(x.device, non_blocking=True))


def sum_of_products(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """(d, d) sum of x xᵀ over rows and tokens, x (rows, ..., d), below the diagonal; beyond its tile anything may be.

    Tokens with a false mask don't count. In float32; float64 stays.
    """
    x = _counted(x, mask)
    x = x if x.dtype == torch.float64 else x.float()
    total = x.new_empty(x.shape[1], x.shape[1])
    for number, part in enumerate(x.split(PIECE)):
        for rows, own in _below(total):
            own.addmm_(part[:, rows].t(), part[:, : rows.stop], beta=min(number, 1))
    return total


def in_rows(x: Tensor, rows: int) -> Tensor:
    """(rows, t, d) where the tokens of all rows lie in one column, (rows·t, d) or (rows·t, 1, d); else as it is.

    OPT's feed-forward networks read such columns.
    """
    column = x.ndim > 1 and x.numel() == len(x) * x.shape[-1] and 0 < rows < len(x) and len(x) % rows == 0
    return x.reshape(rows, -1, x.shape[-1]) if column else x


def _below(matrix: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a square matrix, some at a time, up to the diagonal and the end of its tile."""
    for first in range(0, len(matrix), TILE):
        last = min(first + TILE, len(matrix))
        yield slice(first, last), matrix[first:last, :last]


@dataclass(frozen=True)
class InputStatistic(LayerStatistic, ABC):
    """The mean over rows of something that a layer's input tokens give.

    Args:
        compat: "official" repeats the released MULTIFLOW, which takes X-VLM's region captions for their own padding
            mask and so counts only tokens whose id is 1.
    """

    compat: Compat = "corrected"
    one_reader: ClassVar[bool] = False  # whether official mode looks at the first reader of a weight alone

    def __post_init__(self) -> None:
        check_compat(self.compat)

    @abstractmethod
    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What is added up, of x (rows, ..., d_in); tokens with a false mask don't count."""

    def add(self, sums: Sums, name: str, term: Tensor) -> None:
        """Not in place: layers that read one tensor share its term."""
        sums[name] = sums[name] + term if name in sums else term

    def result(self, layers: Mapping[str, Layer], sums: Sums, counts: Mapping[str, int]) -> Sums:
        return {name: sums[name] / counts[name] for name in layers}

    def telling(self, total: Tensor) -> Tensor:
        """The part of a sum that isn't finite if an input isn't."""
        return total


@dataclass(frozen=True)
class InputNorms(InputStatistic):
    """(d_in,) float64: √(Σ x² / rows), the sum over all tokens that count: the length of the inputs of each feature.

    The released MULTIFLOW records a weight that several modules read in the first of them only (BLIP's encoder).
    """

    one_reader: ClassVar[bool] = True

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (layer.matrix.shape[1],)

    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return sum_of_squares(x, mask)

    def result(self, layers: Mapping[str, Layer], sums: Sums, counts: Mapping[str, int]) -> Sums:
        return {name: mean.sqrt() for name, mean in super().result(layers, sums, counts).items()}


@dataclass(frozen=True)
class InputProducts(InputStatistic):
    """(d_in, d_in) float64: Σ x xᵀ / rows, the sum over all tokens that count; the squared norms are its diagonal.

    8·d_in² bytes a layer: to be asked about some layers at a time (`Calibration.subset`); never on disk.
    """

    on_disk: ClassVar[bool] = False

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (layer.matrix.shape[1],) * 2

    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return sum_of_products(x, mask)

    def telling(self, total: Tensor) -> Tensor:
        return total.diagonal()

    def add(self, sums: Sums, name: str, term: Tensor) -> None:
        """In place where no other layer has the same sum."""
        own = sums.get(name)
        if own is None:
            sums[name] = term.to(torch.float64, copy=True)
            return
        if sum(own is other for other in sums.values()) > 1:
            own = sums[name] = own.clone()
        for (_, into), (_, more) in zip(_below(own), _below(term), strict=True):
            into.add_(more)

    def result(self, layers: Mapping[str, Layer], sums: Sums, counts: Mapping[str, int]) -> Sums:
        """In place: layers whose sum is one have read the same rows."""
        for own, count in {id(sums[name]): (sums[name], counts[name]) for name in layers}.values():
            for rows, below in _below(own):
                below.div_(count)
                own[: rows.start, rows] = own[rows, : rows.start].t()
        return {name: sums[name] for name in layers}


def by_first_reader(layers: Iterable[Layer]) -> list[Layer]:
    """The layers with their first reader alone.

    The released MULTIFLOW records what BLIP's encoder and decoder share in the encoder only.
    """
    return [replace(layer, readers=layer.readers[:1]) for layer in layers]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A measurement that is known already: of which tensor, in which state, under which mask."""

    tensor: weakref.ref[Tensor]
    writes: int
    mask: Tensor | None
    rows: int
    tokens: int
    totals: tuple[Tensor, ...]

    def answers(self, x: Tensor, mask: Tensor | None) -> bool:
        if self.tensor() is not x or self.writes != writes_of(x):
            return False
        if self.mask is None or mask is None:
            return self.mask is mask
        return self.mask is mask or torch.equal(self.mask, mask)


class InputWatch:
    """Measures what reaches the layers in forward passes, each distinct tensor once; nothing is kept of the tensors.

    Args:
        layers: every reader of each is hooked.
        statistics: what is measured; with none the calls alone are told.
        tell: gets for every call an event of the layer with (rows, tokens that count) and one tensor a statistic.
    """

    def __init__(
        self, layers: Iterable[Layer], statistics: Sequence[InputStatistic], tell: Callable[[Event], None]
    ) -> None:
        self._layers, self._statistics, self._tell = list(layers), statistics, tell
        self._masks: TokenMasks | None = None
        self._seen: dict[int, _Seen] = {}
        self._tokens: dict[int, int] = {}  # of the part's inputs (rows, ..., d): rows, by their number of tokens

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks every reader of every layer; whatever happens, the hooks go again."""
        slices = [layer for layer in self._layers if layer.stack is not None]
        with ExitStack() as undo:
            undo.callback(self._seen.clear)
            undo.enter_context(SlicesWatch(slices, self._see_slice, self._mask_of_experts).watching())
            for layer in self._layers:
                for reader in layer.readers if layer.stack is None else ():
                    undo.callback(watch(layer.name, reader, self._see).remove)
            yield

    def new_part(self, masks: TokenMasks) -> None:
        """Says which tokens count in the forward pass that follows."""
        self._masks = masks
        self._seen.clear()
        self._tokens.clear()

    def _mask_of_experts(self, stack: str, x: Tensor) -> Tensor | None:
        return self._masks.at_experts(stack, x) if self._statistics and self._masks is not None else None

    def _see_slice(self, layer: Layer, x: Tensor) -> None:
        """Only tokens that count come here."""
        seen = self._measured(x, None)
        self._tell(Event(layer.name, (len(x), seen.tokens), seen.totals))

    def _see(self, name: str, x: Tensor) -> None:
        if x.is_nested:
            raise ValueError(f"the inputs of {name!r} are nested tensors: give padded batches and a token_mask()")
        mask = self._masks.at(name, x) if self._statistics and self._masks is not None else None
        mask = None if mask is None else mask.cpu()
        seen = self._measured(x, mask)
        self._tell(Event(name, (seen.rows, seen.tokens), seen.totals))

    def _in_rows(self, x: Tensor) -> Tensor:
        """x, or (rows, t, d) if it is a column of all the tokens of an input (rows, ..., d) of the same pass."""
        if x.ndim > 2:
            self._tokens.setdefault(x.numel() // x.shape[-1], len(x))
        return in_rows(x, self._tokens.get(len(x), 0)) if x.ndim == 2 else x

    def _measured(self, x: Tensor, mask: Tensor | None) -> _Seen:
        seen = self._seen.get(id(x))
        if seen is None or not seen.answers(x, mask):
            tokens = x.numel() // x.shape[-1] if mask is None else int(mask.count_nonzero())
            y = self._in_rows(x)
            rows = len(y) if y.ndim > 1 else 1
            with uncast(x.device):
                totals = tuple(statistic.measure(y, mask) for statistic in self._statistics)
            seen = self._seen[id(x)] = _Seen(weakref.ref(x), writes_of(x), mask, rows, tokens, totals)
        return seen


def watch(name: str, reader: Reader, take: Callable[[str, Tensor], None]) -> RemovableHandle:
    """Calls `take(name, x)` with x (rows, ..., d_in) whenever the reader is about to map x with the weight.

    To be used where no gradients are asked for.
    Raises Unseen when it can't be known what reaches the weight.
    """
    module = reader.module
    if isinstance(module, nn.MultiheadAttention):
        seen = _attention_input(name, reader.attribute)
    elif isinstance(module, nn.Linear) or is_conv1d(module):
        seen = _only_input
    else:
        raise Unseen([name], f"{type(module).__name__} reads it in a way of its own")

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
            raise Unseen([name], "it packs three projections that read different tensors here")
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
