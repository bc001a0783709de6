"""Retrieval data as Lightning wants it, whatever it comes from, and the batches a pruner is calibrated on."""

from dataclasses import dataclass

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vlp_bench.data.datasets import CaptionDataset, Collate, RegionDataset, Transform
from vlp_bench.data.loading import (
    CalibrationBatches,
    EpochSampler,
    GalleryCollate,
    GalleryDataset,
    ResumableLoader,
    in_order,
)
from vlp_bench.data.sources import RetrievalSource, Split, joined
from vlp_bench.data.text import Masker, make_tokenizer


@dataclass(frozen=True)
class CalibrationSettings:
    """What a pruner is shown: `num_batches` times `batch_size` captioned images and as many captioned regions.

    The paper takes 3,000 times 32, about 5 % of its pre-training data, and draws them with seed 0 whatever the seed of
    the run. `side`: patches along an image of `transform`. `mask`: share of words hidden for the MLM loss.

    Raises:
        ValueError: a number is below 1, or `mask` outside (0, 1].
    """

    transform: Transform
    region_transform: Transform
    side: int
    num_batches: int = 3000
    batch_size: int = 32
    max_words: int = 40
    regions: int = 1
    mask: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("side", "num_batches", "batch_size", "max_words", "regions"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.calibration.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.mask <= 1:
            raise ValueError(f"data.calibration.mask is a share of the words in (0, 1], got {self.mask}")


class RetrievalData(LightningDataModule):
    """Training batches, galleries for validation and test, and calibration batches.

    Args:
        source: where records and images come from.
        train_transform, eval_transform: image and generator -> tensor.
        calibration: settings of the calibration batches.
        each: an item per "caption" (the papers) or per "image" with one of its captions drawn.
        batch_size: captions a device sees at a time in training; a last incomplete batch is dropped.
        eval_batch_size: images at a time in evaluation, with all of their captions.
        max_words, max_tokens: where captions are cut.
        num_workers: processes that prepare batches; 0 prepares them in this one. No number depends on it.
        seed: of the order and the augmentation of the training set.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        source: RetrievalSource,
        *,
        train_transform: Transform,
        eval_transform: Transform,
        calibration: CalibrationSettings,
        each: str = "caption",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        max_words: int = 30,
        max_tokens: int = 40,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(batch_size=batch_size, eval_batch_size=eval_batch_size, max_words=max_words, max_tokens=max_tokens)
        if num_workers < 0:
            raise ValueError(f"data.num_workers must be 0 or more, got {num_workers}")
        if each not in ("caption", "image"):
            raise ValueError(f"data.each must be 'caption' or 'image', got {each!r}")
        self.source = source
        self.train_transform, self.eval_transform = train_transform, eval_transform
        self.settings, self.each, self.seed = calibration, each, seed
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.tokenizer = make_tokenizer(source.vocabulary)
        self.collate = Collate(self.tokenizer, max_words, max_tokens)
        self._training: ResumableLoader | None = None
        self._resumed: dict[str, int] = {}

    # How far an epoch has come is stored here: Lightning puts the state of loaders back too late for a task that asks
    # for the number of its steps.

    def setup(self, stage: str) -> None:
        self._resumed = {}

    def state_dict(self) -> dict[str, int]:
        return self._training.state_dict() if self._training is not None else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resumed = state_dict

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled captions; the order of an epoch is a function of seed and epoch."""
        split = self.source.captions("train")
        dataset = CaptionDataset(split.records, split.images, self.train_transform, each=self.each, seed=self.seed)
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = EpochSampler(dataset, seed=self.seed, num_replicas=world, rank=rank)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"the training split has {len(dataset)} captions for {world} device(s), not one batch of "
                f"data.batch_size={self.batch_size}; lower it or give more data"
            )
        self._training = ResumableLoader(
            dataset,
            sampler=sampler,
            batch_size=self.batch_size,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
        )
        if self._resumed:
            self._training.load_state_dict(self._resumed)
        return self._training

    def val_dataloader(self) -> DataLoader:
        """The validation gallery: every image with all of its captions."""
        return self._gallery("val")

    def test_dataloader(self) -> DataLoader:
        """The test gallery."""
        return self._gallery("test")

    def _gallery(self, name: str) -> DataLoader:
        split = self.source.captions(name)
        dataset = GalleryDataset(split.records, split.images, self.eval_transform)
        collate = GalleryCollate(self.collate)
        return in_order(dataset, collate, batch_size=self.eval_batch_size, num_workers=self.num_workers)

    def calibration(self) -> CalibrationBatches:
        """A re-iterable of [general, region] batches, the same at every pass and for every seed of a run.

        Raises:
            ValueError: the data holds fewer images than the settings ask for.
        """
        s = self.settings
        general, regions = self.source.general(), self.source.regions()
        for name, split in (("general", general), ("regions", regions)):
            _check_enough(name, split, s)
        collate = Collate(self.tokenizer, s.max_words, self.collate.max_tokens, Masker(self.tokenizer, s.mask), s.side)
        whole = CaptionDataset(general.records, general.images, s.transform, each="image", seed=s.seed)
        parts = RegionDataset(regions.records, regions.images, s.region_transform, regions=s.regions, seed=s.seed)
        return CalibrationBatches(
            [(whole, collate), (parts, collate)],
            num_batches=s.num_batches,
            batch_size=s.batch_size,
            seed=s.seed,
            num_workers=self.num_workers,
        )

    def fingerprint(self) -> str:
        """Hash of the data a run sees: training, validation and test."""
        return self.source.fingerprint("train", "val", "test")

    def calibration_fingerprint(self) -> str:
        """Hash of the calibration data and of how it is shown; equal hashes mean equal batches."""
        return joined([self.source.fingerprint("general", "regions"), self.settings])


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"data.{name} must be at least 1, got {count}")


def _check_enough(name: str, split: Split, settings: CalibrationSettings) -> None:
    wanted, there = settings.num_batches * settings.batch_size, len(split.records)
    if there < wanted:
        most = there // settings.batch_size
        raise ValueError(
            f"calibration takes {settings.num_batches} batches of {settings.batch_size} images, its {name} part "
            f"has {there}; lower data.calibration.num_batches to {most} or give more data"
        )
