"""What happens when an image of a training or calibration set is missing or broken.

The next place of the data set (after the last comes the first) whose image can be read stands in. That is a rule of
place alone: it does not depend on workers, processes or a resume. Every broken image is logged by its path once and
counted over all workers of a process; more than `data.max_broken` of them end the run. Evaluation never replaces: a
gallery with another image in it would be another benchmark.
"""

import logging
import zlib
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch.utils.data import Dataset

from vlp_bench.data.transforms.decoding import BrokenImage

T = TypeVar("T", covariant=True)
SLOTS = 2**20
"""Broken images are counted by a hash of their path; two in a million fall together."""

_log = logging.getLogger(__name__)


class Places(Protocol[T]):
    """A data set by place, or by (epoch, place)."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: Any) -> T: ...


class Mended(Dataset[T], Generic[T]):
    """A data set whose broken images are replaced.

    Args:
        dataset: raises BrokenImage for a place whose image cannot be read.
        most: so many different images may be broken, counted over all workers of this process.

    Raises:
        ValueError: from an item, once more than `most` images are broken, or if all are.
    """

    def __init__(self, dataset: Places[T], most: int) -> None:
        self.dataset, self.most = dataset, most
        self._broken = torch.zeros(SLOTS, dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, where: int | tuple[int, int]) -> T:
        epoch, place = where if isinstance(where, tuple) else (None, where)
        for further in range(len(self)):
            there = (place + further) % len(self)
            try:
                return self.dataset[there if epoch is None else (epoch, there)]
            except BrokenImage as error:
                self._count(error)
        raise ValueError("no image of the data set can be read; is paths.data the folder it should be in?")

    @property
    def broken(self) -> int:
        """How many different images were broken so far."""
        return int(self._broken.sum())

    def _count(self, error: BrokenImage) -> None:
        slot = zlib.crc32(error.place.encode()) % SLOTS
        if self._broken[slot]:
            return
        self._broken[slot] = 1
        if self.broken > self.most:
            limit = f"data.max_broken allows {self.most}"
            raise ValueError(f"{error}; {limit}, and this is number {self.broken}") from None
        _log.warning("%s; the next readable image takes its place (%d of %d)", error, self.broken, self.most)


def replace_broken(dataset: Dataset[T], most: int) -> Dataset[T]:
    """The data set, with up to `most` of its broken images replaced; as it is if none may be."""
    if most < 0:
        raise ValueError(f"data.max_broken must be 0 or more, got {most}")
    return Mended(cast(Places[T], dataset), most) if most else dataset
