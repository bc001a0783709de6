"""Batches on the device of the model."""

from dataclasses import dataclass, field
from typing import Any

import torch

from vlp_bench.pruning.statistics.batches import moved_to


@dataclass(frozen=True)
class Example:
    image: torch.Tensor
    words: list[Any]
    rows: int = field(default=2, init=False)


def test_what_a_dataclass_holds_moves():
    given = Example(torch.zeros(2), [torch.ones(3), "a word"])
    moved = moved_to({"batch": given}, torch.device("meta"))["batch"]
    assert (moved.image.device.type, moved.words[0].device.type, moved.words[1]) == ("meta", "meta", "a word")
    assert moved.rows == 2
    assert given.image.device.type == "cpu"
