"""Predictions that processes made of their shares of a split, brought together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass
class Gathered(Generic[T]):
    """Example number -> prediction; numbers are those of the whole split."""

    own: dict[int, T] = field(default_factory=dict)

    def add(self, numbers: Sequence[int], predictions: Sequence[T]) -> None:
        self.own.update(zip(numbers, predictions, strict=True))

    def whole(self) -> dict[int, T]:
        """The predictions of all processes, by number; every process must call this."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.own
        parts: list[dict[int, T]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, self.own)
        return {number: prediction for part in parts for number, prediction in part.items()}


def write_json(file: Path, content: object) -> None:
    """Write JSON beside the target, then rename: a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.tmp")
    scratch.write_text(json.dumps(content), encoding="utf-8")
    scratch.replace(file)
