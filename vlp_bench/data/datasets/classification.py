"""Labelled images as Lightning wants them, and the labelled batches a pruner is calibrated on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlp_bench.batch import Batch
from vlp_bench.data.datasets.labelled import LabelledSource
from vlp_bench.data.datasets.prompts import Prompts
from vlp_bench.data.datasets.seeded import SeededData, check_counts
from vlp_bench.data.datasets.sources import Split, joined
from vlp_bench.data.items import Transform, Where
from vlp_bench.data.loading import ResumableLoader
from vlp_bench.data.records import LabelledImage
from vlp_bench.lifetime import begin_loader

Labelled = tuple[Tensor, int]
"""(3, h, w) float32 and its class."""


@dataclass(frozen=True)
class LabelledCalibration:
    """What a pruner is shown: `num_batches` times `batch_size` labelled images, drawn with `seed` whatever the run's.

    The paper takes 2,000 times 32 of ImageNet's training set. ValueError if a number is below 1.
    """

    transform: Transform
    num_batches: int = 2000
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(**{f"calibration.{n}": getattr(self, n) for n in ("num_batches", "batch_size")})


class LabelledDataset(Dataset[Labelled]):
    """Records as tensors with their class; asked by index, or by (epoch, index), which decides all that is random."""

    def __init__(self, split: Split[LabelledImage], transform: Transform, seed: int = 0) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __len__(self) -> int:
        return len(self.split.records)

    def __getitem__(self, where: Where) -> Labelled:
        epoch, index = where if isinstance(where, tuple) else (0, where)
        record = self.split.records[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        return self.transform(self.split.images.open(record.image), rng), record.label


@dataclass(frozen=True)
class LabelledCollate:
    """b labelled images -> Batch; with the sentences of all classes, `text_ids` are those of each image's class."""

    sentences: tuple[Tensor, Tensor] | None = None

    def __call__(self, items: Sequence[Labelled]) -> Batch:
        labels = torch.tensor([label for _, label in items])
        batch = Batch(torch.stack([image for image, _ in items]), labels=labels)
        if self.sentences is not None:
            batch.text_ids, batch.text_atts = (tensor[labels] for tensor in self.sentences)
        return batch


class Loading(TypedDict, total=False):
    """The arguments of `SeededData`, by name."""

    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int


class ClassificationData(SeededData):
    """Training batches of labelled images, validation and test in order, and calibration batches.

    Args:
        source: where records, images and the names of the classes come from.
        train_transform, eval_transform: image and generator -> tensor.
        calibration: settings of the calibration batches.
        calibration_source: where those come from (the papers: ImageNet, whatever the task); None is `source`.
        prompts: sentences about classes, for a model that compares images with them.
        loading: see `SeededData`.
    """

    def __init__(
        self,
        source: LabelledSource,
        *,
        train_transform: Transform,
        eval_transform: Transform,
        calibration: LabelledCalibration,
        calibration_source: LabelledSource | None = None,
        prompts: Prompts | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        super().__init__(**loading)
        self.source, self.calibration_source = source, calibration_source or source
        self.train_transform, self.eval_transform = train_transform, eval_transform
        self.settings, self.prompts = calibration, prompts

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, by label."""
        return self.source.classes

    def sentences(self) -> tuple[Tensor, Tensor]:
        """(c, t) token ids and attention of a sentence about every class; ValueError without `prompts`."""
        if self.prompts is None:
            raise ValueError("data.prompts is null, and zero-shot classification compares images with sentences")
        return self.prompts.encode(self.classes)

    def labels(self, split: str) -> list[int]:
        """The class of every example of "train", "val" or "test"."""
        return [record.label for record in self.source.labelled(split).records]

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled training images."""
        dataset = LabelledDataset(self.source.labelled("train"), self.train_transform, self.seed)
        return self.training_loader(dataset, LabelledCollate(), "images")

    def val_dataloader(self) -> DataLoader:
        """The validation images, each process its share."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader:
        """The test images, each process its share."""
        return self._in_order("test")

    def _in_order(self, split: str) -> DataLoader:
        return self.dealt_loader(LabelledDataset(self.source.labelled(split), self.eval_transform), LabelledCollate())

    def calibration(self) -> "DrawnBatches":
        """A re-iterable of batches, the same at every pass and for every seed of a run.

        Raises:
            ValueError: the data holds fewer images than the settings ask for.
        """
        split, s = self.calibration_source.labelled("calibration"), self.settings
        wanted, there = s.num_batches * s.batch_size, len(split.records)
        if there < wanted:
            raise ValueError(
                f"calibration takes {s.num_batches} batches of {s.batch_size} images, there are {there}; lower "
                f"data.calibration.num_batches to {there // s.batch_size} or give more data"
            )
        sentences = None if self.prompts is None else self.prompts.encode(self.calibration_source.classes)
        dataset = LabelledDataset(split, s.transform, s.seed)
        return DrawnBatches(dataset, LabelledCollate(sentences), s, self.num_workers)

    def fingerprint(self) -> str:
        """Hash of the data a run sees: training, validation and test."""
        return self.source.fingerprint("train", "val", "test")

    def calibration_fingerprint(self) -> str:
        """Hash of the calibration data and of how it is shown; equal hashes mean equal batches."""
        template = None if self.prompts is None else self.prompts.template
        return joined([self.calibration_source.fingerprint("calibration"), self.settings, template])


class Draw(Protocol):
    """How many calibration batches are drawn, of what size, and with which seed."""

    @property
    def num_batches(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class DrawnBatches:
    """Calibration batches in a seeded order, the same at every pass."""

    dataset: Dataset[Any]
    collate: Callable[[Sequence[Any]], Batch]
    settings: Draw
    num_workers: int

    def __len__(self) -> int:
        return self.settings.num_batches

    def __iter__(self) -> Iterator[Batch]:
        s = self.settings
        places = len(self.dataset)  # pyright: ignore[reportArgumentType]
        order = np.random.default_rng(s.seed).permutation(places)[: s.num_batches * s.batch_size]
        generator = torch.Generator().manual_seed(s.seed)
        yield from DataLoader(
            self.dataset,
            s.batch_size,
            sampler=order.tolist(),
            collate_fn=self.collate,
            num_workers=self.num_workers,
            generator=generator,
            worker_init_fn=begin_loader,
        )
