"""The processes that share one run: which of them this one is, and what they tell each other.

For a process that is alone everything here is the identity. Rows are dealt round-robin: row j of process r is row
j·n + r of the batch that a single process would have, and what is gathered comes in that order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
LOST = r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket"
_apart = 0  # how many times `apart` has been entered


def size() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_main() -> bool:
    """Whether this is the one that writes and speaks."""
    return rank() == 0


@contextmanager
def apart() -> Iterator[None]:
    """Inside, `gather` gives back what it is given: processes see different batches and don't wait for each other."""
    global _apart
    _apart += 1
    try:
        yield
    finally:
        _apart -= 1


def together() -> int:
    """Over how many processes `gather` gathers."""
    return 1 if _apart else size()


class _Gather(torch.autograd.Function):
    """All rows in the order of a single process; each row's gradient is the sum of what all processes found for it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.count, ctx.rank = size(), rank()
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(ctx.count)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad[ctx.rank :: ctx.count]


def gather(tensor: Tensor) -> Tensor:
    """(b, ...) -> (n·b, ...), with gradient: a loss that every process computes wholly, and that is averaged over them,
    has the gradient of one process with the whole batch. Every process must hold equally many rows.
    """
    return tensor if together() == 1 else _Gather.apply(tensor)  # pyright: ignore[reportReturnType]


def own_rows(b: int, device: torch.device) -> Tensor:
    """(b,) where this process's b rows are among those of all."""
    n = together()
    return torch.arange(b, device=device) * n + (rank() if n > 1 else 0)


def gather_padded(tensor: Tensor) -> Tensor:
    """`gather` of (b, t, ...) whose t differs: zeros are appended up to the longest."""
    if together() == 1:
        return tensor
    longest = torch.tensor(tensor.shape[1], device=tensor.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    missing = tensor.new_zeros(len(tensor), int(longest) - tensor.shape[1], *tensor.shape[2:])
    return gather(torch.cat([tensor, missing], dim=1))


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes, without gradient."""
    if together() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / size()


def from_main(value: T) -> T:
    """What the main process holds (a plain value), on every process."""
    if size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


def agreed(choice: bool) -> bool:
    """What the main process has chosen, on every process."""
    return from_main(choice)


def largest(number: int) -> int:
    """The largest that a process has."""
    if size() == 1:
        return int(number)
    told = torch.tensor(int(number))
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return int(told)


def check_same(digest: str, what: str) -> None:
    """Raises RuntimeError unless `digest` (hexadecimal, from 15 digits on) is the same on all processes."""
    if size() == 1:
        return
    mine = torch.tensor(int(digest[:15], 16))
    parts = [torch.empty_like(mine) for _ in range(size())]
    dist.all_gather(parts, mine)
    if any(int(other) != int(mine) for other in parts):
        digests = ", ".join(f"{int(other):015x}" for other in parts)
        raise RuntimeError(f"the processes of this run do not hold the same {what}: {digests}")


def lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run has ended, or can't be heard any more."""
    told = isinstance(error, RuntimeError) and re.search(LOST, str(error), re.IGNORECASE)
    return size() > 1 and (isinstance(error, dist.DistError) or bool(told))


def wait() -> None:
    """Until all processes are here."""
    if size() > 1:
        dist.barrier()


def from_owner(tensors: Sequence[Tensor] | None, owner: int, device: torch.device) -> list[Tensor]:
    """The tensors of process `owner`, on all processes and on `device`; the others give None."""
    if tensors is not None:
        shapes = [[_DTYPES.index(t.dtype), t.ndim, *t.shape] for t in tensors]
        words = torch.tensor([len(shapes), *(number for shape in shapes for number in shape)])
    else:
        words = torch.empty(0, dtype=torch.int64)
    length = torch.tensor(len(words))
    dist.broadcast(length, owner)
    words = words if tensors is not None else torch.empty(int(length), dtype=torch.int64)
    dist.broadcast(words, owner)
    received = list(tensors) if tensors is not None else _blank(words.tolist(), device)
    received = [tensor.to(device).contiguous() for tensor in received]
    for tensor in received:
        dist.broadcast(tensor, owner)
    return received


def _blank(words: list[int], device: torch.device) -> list[Tensor]:
    made, at = [], 1
    for _ in range(words[0]):
        dtype, dimensions = words[at : at + 2]
        made.append(torch.empty(words[at + 2 : at + 2 + dimensions], dtype=_DTYPES[dtype], device=device))
        at += 2 + dimensions
    return made
