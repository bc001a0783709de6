"""What the data of every task shares as Lightning wants it: batches that a seed orders, and where an epoch stands."""

from collections.abc import Callable

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from vlp_bench.batch import Batch
from vlp_bench.data.loading import EpochSampler, ResumableLoader, own_share
from vlp_bench.data.transforms.replace_broken import replace_broken


class SeededData(LightningDataModule):
    """Training batches in an order that a seed decides, and how far an epoch of them has come.

    Args:
        batch_size: examples a device sees at a time in training; a last incomplete batch is dropped.
        eval_batch_size: images at a time in evaluation.
        num_workers: processes that prepare batches; 0 prepares them in this one. No number depends on it.
        seed: of the order and the augmentation of the training set.
        max_broken: so many broken images of the training or calibration set are replaced (`data.broken`) before the
            run stops; by default none is.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        *,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        max_broken: int = 0,
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size, eval_batch_size=eval_batch_size)
        for name, value in {"num_workers": num_workers, "seed": seed, "max_broken": max_broken}.items():
            if value < 0:
                raise ValueError(f"data.{name} must be 0 or more, got {value}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed, self.max_broken = num_workers, seed, max_broken
        self._training: ResumableLoader | None = None
        self._resumed: dict[str, int] = {}

    def inspect(self, rows: int | None = None, *, training: bool = True) -> None:
        """Look at the texts before anything is computed, where there are texts; see `TaskData.inspect`."""

    # How far an epoch has come is stored here: Lightning puts the state of loaders back too late for a task that asks
    # for the number of its steps.

    def setup(self, stage: str) -> None:
        self._resumed = {}

    def state_dict(self) -> dict[str, int]:
        return self._training.state_dict() if self._training is not None else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resumed = state_dict

    def training_loader(self, dataset: Dataset, collate: Callable[..., Batch], what: str) -> ResumableLoader:
        """Shuffled batches of a training set of `what`; the order of an epoch is a function of seed and epoch."""
        world, rank = self._place()
        sampler = EpochSampler(dataset, seed=self.seed, num_replicas=world, rank=rank)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"the training split has {len(dataset)} {what} for {world} device(s), not one batch of "  # pyright: ignore[reportArgumentType]
                f"data.batch_size={self.batch_size}; lower it or give more data"
            )
        self._training = ResumableLoader(
            replace_broken(dataset, self.max_broken),
            sampler=sampler,
            batch_size=self.batch_size,
            collate_fn=collate,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
        )
        if self._resumed:
            self._training.load_state_dict(self._resumed)
        return self._training

    def dealt_loader(self, dataset: Dataset, collate: Callable[..., Batch]) -> DataLoader:
        """Everything once, in order, each process its share; none is shown twice."""
        world, rank = self._place()
        return own_share(
            dataset, collate, batch_size=self.eval_batch_size, num_workers=self.num_workers, world=world, rank=rank
        )

    def _place(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)


def check_counts(**counts: int) -> None:
    """Raise ValueError for a count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"data.{name} must be at least 1, got {count}")
