"""SHA-256 of a model's weights, computed once for a model and what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_known: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()  # model -> trace, hash


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{data.dtype}{tuple(data.shape)}".encode())
        digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_of_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """`hash_of` some of a model's weights; that of the last call if none of them has changed since.

    Changes show in PyTorch's count of writes, and those it doesn't count (through `.data`, or memory shared with numpy)
    in the sums of the bits of every row.
    """
    trace = _trace(weights)
    known = _known.get(model)
    if known is None or known[0] != trace:
        known = _known[model] = trace, hash_of(weights)
    return known[1]


def _trace(weights: Mapping[str, Tensor]) -> str:
    """Differs after any write that is counted, and after any that changes the bits of one word in a row."""
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} {weight.data_ptr()} {weight._version}".encode())
        digest.update(_row_sums(weight.detach()).cpu().numpy().data)
    return digest.hexdigest()


def _row_sums(weight: Tensor) -> Tensor:
    """(rows,) int64: sums of the bits of each row as stored, modulo 2⁶⁴, eight bytes at a time where that fits."""
    rows = weight if weight.is_contiguous() else weight.contiguous()
    fits = rows.shape[-1] * rows.element_size() % 8 == 0
    return rows.view(torch.int64 if fits else torch.uint8).sum(-1)
