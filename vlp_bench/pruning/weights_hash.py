"""SHA-256 of a model's weights, computed once for a model and what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vlp_bench.models.offloading import offloaded
from vlp_bench.pruning.layers import writes_of

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
_known: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()  # model -> trace, hash


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    return _hash(tensors.items())


def _hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{data.dtype}{tuple(data.shape)}".encode())
        digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_of_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """`hash_of` some of a model's weights; that of the last call if none of them has changed since.

    Changes show in PyTorch's count of writes, and those it doesn't count (through `.data`, or memory shared with numpy)
    in the sums of every row, and of the bits of every row and of every column.
    """
    if (own := offloaded(model)) is not None:
        return _hash((name, own.value(name)) for name in weights)
    trace = _trace(weights)
    known = _known.get(model)
    if known is None or known[0] != trace:
        known = _known[model] = trace, hash_of(weights)
    return known[1]


def _trace(weights: Mapping[str, Tensor]) -> str:
    """Differs after any write that is counted, and after any other that changes a sum of a row or a column.

    Sums of bits are of eight bytes modulo 2^64, in which signs of every other column, turned in pairs, go under; sums
    of the values show those.
    """
    digest, sums = hashlib.sha256(), dict[torch.device, list[Tensor]]()
    for name, weight in weights.items():
        place = f"{name} {weight.dtype} {tuple(weight.shape)} {weight.data_ptr()} {writes_of(weight)}"
        digest.update(place.encode())
        rows = weight.detach().contiguous()
        own, words = sums.setdefault(rows.device, []), _words(rows)
        own.extend(words.sum(side, dtype=torch.int64) for side in (0, -1))
        own.append(rows.sum(-1, dtype=torch.promote_types(rows.dtype, torch.float32)).double().view(torch.int64))
    for own in sums.values():  # fetched in one go
        digest.update(torch.cat(own).cpu().numpy().data)
    return digest.hexdigest()


def _words(rows: Tensor) -> Tensor:
    """The bits as integers: of eight bytes where rows lie so (summed ten times as fast), else of one element."""
    size, width = rows.element_size(), rows.shape[-1]
    aligned = width * size % 8 == 0 and rows.storage_offset() * size % 8 == 0
    eights = rows.numel() > 0 and rows.stride(0) == width and aligned
    return rows.view(torch.int64 if eights else WORDS[size])
