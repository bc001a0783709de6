"""Tells whether arguments are, bit by bit, those of an earlier call, without keeping them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FACTOR = 0x5851F42D4C957F2D  # odd, of Knuth's MMIX generator


def leaves(item: Any) -> Iterator[Any]:
    """What tells an argument from another: kinds, lengths, keys, plain values and checksums of tensors, in order.

    An object of a kind that can't be looked into gives a leaf that equals no other.
    """
    if isinstance(item, Tensor):
        yield item.shape, item.dtype, item.device
        yield checksum(item)
    elif isinstance(item, PLAIN):
        yield type(item), item
    elif isinstance(item, Mapping):
        yield type(item), *item
        for value in item.values():
            yield from leaves(value)
    elif isinstance(item, list | tuple):
        yield type(item), len(item)
        for value in item:
            yield from leaves(value)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        yield type(item)
        for field in dataclasses.fields(item):
            yield from leaves(getattr(item, field.name))
    else:
        yield object()


def matches(item: Any, known: list[Any]) -> bool:
    """Whether these are the leaves of the item; ends at the first that differs."""
    return all(a == b for a, b in zip(leaves(item), known, strict=True))


def checksum(x: Tensor) -> int:
    """64 bits of a tensor's bits and their places.

    Words are multiplied with random odd numbers and added modulo 2⁶⁴. That two tensors that differ have one sum has a
    probability of 2⁻⁶⁴, or 2⁻³² where they differ in nothing but signs of float32.
    """
    x = torch.view_as_real(x) if x.is_complex() else x
    words = x.detach().contiguous().view(-1).view(WORDS[x.element_size()])
    factors = _factors(words.device)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for part in words.split(len(factors)):
        total = total * FACTOR + (part * factors[: len(part)]).sum()
    return int(total)


@cache
def _factors(device: torch.device) -> Tensor:
    """Random odd int64, as many as are multiplied in one go: on a processor they stay in its cache."""
    generator = torch.Generator().manual_seed(0)
    size = 1 << 16 if device.type == "cpu" else 1 << 20
    return (torch.randint(-(2**63), 2**63 - 1, (size,), generator=generator) | 1).to(device)
