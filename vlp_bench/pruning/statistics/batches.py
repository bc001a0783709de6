"""What a batch of any type is made of: its parts, its tensors, and where they are."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.pruning.layers import writes_of


def parts_of(batch: Any) -> list[Any]:
    """A list stands for parts that are passed on their own; a list of tensors is one batch."""
    return batch if isinstance(batch, list) and not all(isinstance(item, Tensor) for item in batch) else [batch]


def fingerprints(parts: Any, samples: int = 4096) -> list[bytes]:
    """For every tensor shape, type and at most about `samples` evenly spaced values: enough to tell two batches apart.

    What lies on a device is fetched in one go.
    """
    tensors = list(tensors_in(parts))
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    picked = [own[:: max(1, own.numel() // samples)].double() for own in flat]
    if any(own.device.type != "cpu" for own in picked):
        sizes, device = [len(own) for own in picked], next(own.device for own in picked if own.device.type != "cpu")
        picked = torch.cat([own.to(device, non_blocking=True) for own in picked]).cpu().split(sizes)
    heads = [f"{tuple(tensor.shape)}{tensor.dtype}".encode() for tensor in tensors]
    return [head + own.numpy().tobytes() for head, own in zip(heads, picked, strict=True)]


def tensors_in(item: Any) -> Iterator[Tensor]:
    """Every tensor in a batch of any type, in a fixed order."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, Mapping):
        for key in sorted(item, key=str):
            yield from tensors_in(item[key])
    elif isinstance(item, list | tuple):
        for entry in item:
            yield from tensors_in(entry)
    elif dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            yield from tensors_in(getattr(item, field.name))


def moved_to(item: Any, device: torch.device) -> Any:
    """The item with every tensor in it on `device`; what isn't known stays as it is."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        return value.to(device) if hasattr(value, "to") else _with_parts(value, moved)

    return moved(item)


def numbers_on_host(item: Any) -> Any:
    """The item with every tensor of whole numbers or truths in it on the processor; others stay where they are.

    What lies on a device is fetched in one go.
    """
    away = [tensor for tensor in tensors_in(item) if tensor.device.type != "cpu" and not tensor.is_floating_point()]
    if not away:
        return item
    away.sort(key=Tensor.element_size, reverse=True)  # so that each begins where its type may
    pieces = [tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in away]
    fetched = torch.cat([piece.to(pieces[0].device) for piece in pieces]).cpu().split([len(piece) for piece in pieces])
    own = {id(tensor): piece.view(tensor.dtype).view(tensor.shape) for tensor, piece in zip(away, fetched, strict=True)}

    def told(value: Any) -> Any:
        return own.get(id(value), value) if isinstance(value, Tensor) else _with_parts(value, told)

    return told(item)


def _with_parts(item: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a mapping, list, tuple or dataclass with every part changed; anything else as it is."""
    if isinstance(item, Mapping):
        return {key: change(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        own = [change(value) for value in item]
        return type(item)(*own) if hasattr(item, "_fields") else type(item)(own)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return _with_fields(item, change)
    return item


def _with_fields(item: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a dataclass with every field changed, frozen ones and those its constructor doesn't take too."""
    changed = copy.copy(item)
    for field in dataclasses.fields(item):
        object.__setattr__(changed, field.name, change(getattr(item, field.name)))
    return changed


class RandomState:
    """The state of torch's global random streams, to come back to."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


SMALL = 1 << 20  # elements of a tensor that is compared by value


class Snapshot:
    """Copies of tensors, put back where something has been written since.

    PyTorch's batch norms write to their running statistics without counting it, so tensors of up to `SMALL` elements
    are compared by value.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._writes = [writes_of(tensor) for tensor, _ in self._kept]

    @torch.no_grad()
    def restore(self) -> None:
        unsure = [i for i, (tensor, _) in enumerate(self._kept) if not self._written(i) and tensor.numel() <= SMALL]
        changed = {i for i, same in zip(unsure, _same([self._kept[i] for i in unsure]), strict=True) if not same}
        for i, (tensor, before) in enumerate(self._kept):
            if i in changed or self._written(i):
                tensor.copy_(before)
                self._writes[i] = writes_of(tensor)

    def _written(self, i: int) -> bool:
        return writes_of(self._kept[i][0]) != self._writes[i]


def _same(pairs: list[tuple[Tensor, Tensor]]) -> list[bool]:
    """Whether the two are equal, of each pair; what lies on a device is asked in one go."""
    if all(tensor.device.type == "cpu" for tensor, _ in pairs):
        return [torch.equal(tensor, before) for tensor, before in pairs]
    first = pairs[0][0].device
    return torch.stack([tensor.eq(before).all().to(first) for tensor, before in pairs]).tolist()


def as_released(part: Any) -> Any:
    """A region batch as the released MULTIFLOW reads it: its text ids where its padding mask should be."""
    if isinstance(part, Batch) and part.is_region and part.text_ids is not None:
        return dataclasses.replace(part, text_atts=(part.text_ids == 1).long())
    return part
