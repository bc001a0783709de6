"""What a model of the user's own says of a batch that it can't take, in a line that names the batch."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[int, list[Any]], None]
KINDS = (RuntimeError, TypeError, AttributeError, IndexError, ValueError)


def named(model: nn.Module, run: Run) -> Run:
    """As `run`, but an error of a model that is not of this package becomes a ValueError with number and shapes.

    Running out of memory is not the batch's fault, what this package says of a batch stays as it is said, and a fault
    of ours keeps its traceback.
    """

    def runs(number: int, parts: list[Any]) -> None:
        try:
            run(number, parts)
        except KINDS as error:
            if isinstance(error, torch.OutOfMemoryError) or _is_ours(type(model).__module__) or _is_said(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"the model can't take calibration batch {number} ({_told(parts)}): {reason}") from error

    return runs


def _is_ours(module: str) -> bool:
    return module.startswith("vlp_bench.")


def _is_said(error: Exception) -> bool:
    """Whether it is a ValueError that this package raised."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and _is_ours(frame.f_globals.get("__name__", ""))


def _told(parts: Iterable[Any], most: int = 4) -> str:
    return ", ".join([_shape(value) for part in parts for value in _values(part)][:most])


def _values(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    return list(part) if isinstance(part, list | tuple) else [part]


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    sizes = "nested" if value.is_nested else "x".join(map(str, value.shape)) or "a number"
    return f"{sizes} {str(value.dtype).removeprefix('torch.')}"
