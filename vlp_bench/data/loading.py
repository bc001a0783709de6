"""Loaders whose every batch is decided by seed, epoch and place, so that a run that was cut short can go on exactly.

The loader counts what it handed out; its state goes into Lightning's checkpoint and back.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from vlp_bench.batch import Batch
from vlp_bench.data.cache import cached
from vlp_bench.data.items import Collate, ImageSource, Item, Transform, Where
from vlp_bench.data.records import CaptionedImage
from vlp_bench.lifetime import begin_loader


class EpochSampler(DistributedSampler):
    """(epoch, index) in an order that seed and epoch decide; process `rank` of `num_replicas` gets every n-th.

    The order is cut, never padded, to a multiple of the processes. It is a DistributedSampler so that Lightning leaves
    it as it is and calls `set_epoch`. `start`: how many of its own places to skip.
    """

    def __init__(self, dataset: Dataset[Item], *, seed: int = 0, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed, drop_last=True)
        self.places = len(dataset)  # pyright: ignore[reportArgumentType]
        self.start = 0

    def __iter__(self) -> Iterator[Where]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.places)
        own = order[self.rank : len(order) - len(order) % self.num_replicas : self.num_replicas]
        return iter([(self.epoch, int(i)) for i in own[self.start :]])

    def __len__(self) -> int:
        return self.places // self.num_replicas


class ResumableLoader(DataLoader):
    """Batches of an EpochSampler, the last incomplete one dropped. Goes on after the last batch its state names.

    The sampler is asked when the first batch is, not before: by then Lightning has told it the epoch.
    """

    def __init__(self, dataset: Dataset[Item], *, sampler: EpochSampler, batch_size: int, **settings: Any) -> None:
        settings = {"drop_last": True, "worker_init_fn": begin_loader} | settings
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **settings)
        self.order = sampler
        self.handed_out = 0
        self.resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        resumed, self.resumed = self.resumed, None
        again = resumed is not None and resumed["epoch"] == self.order.epoch
        self.handed_out = resumed["batches"] if resumed is not None and again else 0
        assert self.batch_size is not None
        self.order.start = self.handed_out * self.batch_size
        for batch in super().__iter__():
            self.handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were handed out."""
        return {"epoch": self.order.epoch, "batches": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after `state` if its epoch is the next to be read; any other epoch is read from its start."""
        self.resumed = dict(state)


class GalleryDataset(Dataset[Item]):
    """Images, each with all of its captions; nothing is drawn."""

    def __init__(self, records: Sequence[CaptionedImage], images: ImageSource, transform: Transform) -> None:
        self.records, self.images, self.transform = records, images, transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, where: Where) -> Item:
        index = where[1] if isinstance(where, tuple) else where
        record = self.records[index]
        image = self.transform(self.images.open(record.image), np.random.default_rng(index))
        return Item(image, record.captions, index, index)


class GalleryCollate:
    """m images with b captions in all -> Batch; `idx_to_group_img` (b,) says which image each describes."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[Item]) -> Batch:
        batch = self.collate(items)
        counts = torch.tensor([len(item.captions) for item in items])
        batch.idx_to_group_img = torch.arange(len(items)).repeat_interleave(counts)
        return batch


def in_order(
    dataset: Dataset[Item], collate: Callable[[Sequence[Item]], Batch], *, batch_size: int, num_workers: int
) -> DataLoader:
    """Everything once, in order, on every process: the whole gallery is needed wherever pairs are matched."""
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=False)  # or Lightning would deal it out
    generator = torch.Generator().manual_seed(0)  # or the loader would draw from the stream of dropout
    return DataLoader(
        dataset, batch_size, sampler=sampler, collate_fn=collate, num_workers=num_workers, generator=generator,
        worker_init_fn=begin_loader,
    )  # fmt: skip


class Dealt(DistributedSampler):
    """Place `rank`, `rank + world`, ... of a data set: every one on one process only, in order.

    It is a DistributedSampler so that Lightning leaves it as it is; unlike that one it repeats nothing to even out.
    """

    def __init__(self, dataset: Dataset, *, world: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)
        self.places = range(rank, len(dataset), world)  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def own_share(
    dataset: Dataset, collate: Callable[..., Batch], *, batch_size: int, num_workers: int, world: int, rank: int
) -> DataLoader:
    """This process's share of a data set, in order."""
    sampler = Dealt(dataset, world=world, rank=rank)
    generator = torch.Generator().manual_seed(0)  # or the loader would draw from the stream of dropout
    return DataLoader(
        dataset, batch_size, sampler=sampler, collate_fn=collate, num_workers=num_workers, generator=generator,
        worker_init_fn=begin_loader,
    )  # fmt: skip


ORDERS = ("seeded", "official")


def calibration_order(n: int, seed: int, part: int, order: str = "seeded") -> list[int]:
    """The places of `n` records in the order they are shown.

    "official": as the released sampler shuffles, whose seed is 0 and whose epoch is never set; both parts alike.
    """
    if order == "official":
        return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return np.random.default_rng((seed, part)).permutation(n).tolist()


class CalibrationBatches:
    """[general, region] batches (or those of one part) in a seeded order, the same at every pass.

    `num_images`: of each part; the last batch holds what is left. `cache`: where decoded images are kept, or None.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Dataset[Any], Callable[[Sequence[Any]], Batch]]],
        *,
        num_images: int,
        batch_size: int,
        seed: int,
        num_workers: int,
        order: str = "seeded",
        cache: Path | None = None,
    ) -> None:
        self.parts, self.order, self.cache = parts, order, cache
        self.num_images, self.batch_size, self.seed, self.num_workers = num_images, batch_size, seed, num_workers

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[Batch]]:
        for batches in zip(*(self._loader(n) for n in range(len(self.parts))), strict=True):
            yield list(batches)

    def _loader(self, part: int) -> DataLoader:
        dataset, collate = self.parts[part]
        places = len(dataset)  # pyright: ignore[reportArgumentType]
        shown = calibration_order(places, self.seed, part, self.order)[: self.num_images]
        if self.cache is not None:
            dataset = cached(dataset, shown, self.cache / str(part), num_workers=self.num_workers)
            shown = list(range(len(shown)))
        return DataLoader(
            dataset,
            self.batch_size,
            sampler=shown,
            collate_fn=collate,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
            worker_init_fn=begin_loader,
        )
