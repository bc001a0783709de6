"""What a batch of any type is made of: its parts, its tensors, and where they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.pruning.layers import writes_of


def parts_of(batch: Any) -> list[Any]:
    """A list stands for parts that are passed on their own; a list of tensors is one batch."""
    return batch if isinstance(batch, list) and not all(isinstance(item, Tensor) for item in batch) else [batch]


def fingerprint(tensor: Tensor, samples: int = 4096) -> bytes:
    """Shape, type and at most about `samples` evenly spaced values: enough to tell two batches apart, at no cost."""
    flat = tensor.detach().reshape(-1)
    picked = flat[:: max(1, flat.numel() // samples)].double().cpu()
    return f"{tuple(tensor.shape)}{tensor.dtype}".encode() + picked.numpy().tobytes()


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
    if hasattr(item, "to"):
        return item.to(device)
    if isinstance(item, Mapping):
        return {key: moved_to(value, device) for key, value in item.items()}
    if isinstance(item, list | tuple):
        moved = [moved_to(value, device) for value in item]
        return type(item)(*moved) if hasattr(item, "_fields") else type(item)(moved)
    return item


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
        for i, (tensor, before) in enumerate(self._kept):
            small = tensor.numel() <= SMALL
            if writes_of(tensor) != self._writes[i] or (small and not torch.equal(tensor, before)):
                tensor.copy_(before)
                self._writes[i] = writes_of(tensor)


def as_released(part: Any) -> Any:
    """A region batch as the released MULTIFLOW reads it: its text ids where its padding mask should be."""
    if isinstance(part, Batch) and part.is_region and part.text_ids is not None:
        return dataclasses.replace(part, text_atts=(part.text_ids == 1).long())
    return part
