"""A task's data as Lightning wants it, whatever it comes from, and the batches a pruner is calibrated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Required, TypedDict, Unpack

from torch.utils.data import DataLoader

from vlp_bench.data.boxes import BoxCrop
from vlp_bench.data.broken import mended
from vlp_bench.data.datasets import CaptionDataset, Collate, RegionDataset, Transform
from vlp_bench.data.loading import (
    ORDERS,
    CalibrationBatches,
    GalleryCollate,
    GalleryDataset,
    ResumableLoader,
    in_order,
)
from vlp_bench.data.records import CaptionedImage, RegionImage
from vlp_bench.data.seeded import SeededData, check_counts
from vlp_bench.data.sources import RetrievalSource, Split, joined
from vlp_bench.data.text import Masker, make_tokenizer


@dataclass(frozen=True)
class CalibrationSettings:
    """What a pruner is shown: `num_batches` times `batch_size` captioned images and as many captioned regions.

    The paper takes 3,000 times 32, about 5 % of its pre-training data, and draws them with seed 0 whatever the seed of
    the run. `side`: patches along an image of `transform`. `mask`: share of words hidden for the MLM loss.

    `parts`: "general" (captioned images) and "regions", or one of them. `num_images`, where given, takes the place of
    `num_batches`. `order`: "seeded", or "official", the images the released code takes with its seed 0.

    Raises:
        ValueError: a number is below 1, or `mask` outside (0, 1].
    """

    transform: Transform
    region_transform: Transform | BoxCrop
    side: int
    num_batches: int = 3000
    batch_size: int = 32
    max_words: int = 40
    max_tokens: int = 40
    regions: int = 1
    mask: float = 0.25
    seed: int = 0
    parts: Sequence[str] = ("general", "regions")
    num_images: int | None = None
    order: str = "seeded"

    def __post_init__(self) -> None:
        if not self.parts or not set(self.parts) <= {"general", "regions"}:
            raise ValueError(f"data.calibration.parts holds general, regions or both, got {list(self.parts)}")
        if self.order not in ORDERS:
            raise ValueError(f"data.calibration.order is {' or '.join(ORDERS)}, got {self.order!r}")
        if self.num_images is not None and self.num_images < 1:
            raise ValueError(f"data.calibration.num_images must be at least 1, got {self.num_images}")
        for name in ("side", "num_batches", "batch_size", "max_words", "max_tokens", "regions"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.calibration.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.mask <= 1:
            raise ValueError(f"data.calibration.mask is a share of the words in (0, 1], got {self.mask}")

    @property
    def images(self) -> int:
        """How many images of each part are shown."""
        return self.num_images or self.num_batches * self.batch_size


class CalibrationSource(Protocol):
    """Where the words and the calibration data of a task come from."""

    @property
    def vocabulary(self) -> Mapping[str, int] | Path:
        """The tokenizer's words: word -> id, or a vocab.txt."""
        ...

    def general(self) -> Split[CaptionedImage]:
        """Captioned images."""
        ...

    def regions(self) -> Split[RegionImage]:
        """Captioned regions."""
        ...

    def fingerprint(self, *splits: str) -> str:
        """Hash of the content of the named splits ("train", "val", "test", "general", "regions")."""
        ...


class Shared(TypedDict, total=False):
    """The arguments of `TaskData`, by name, for the subclasses that hand them on."""

    train_transform: Required[Transform]
    eval_transform: Required[Transform]
    calibration: Required[CalibrationSettings]
    batch_size: int
    eval_batch_size: int
    max_words: int
    max_tokens: int
    sep: bool
    num_workers: int
    seed: int
    max_broken: int
    calibration_cache: str | None


class TaskData(SeededData):
    """What the data of every task shares: training batches in a seeded order, calibration batches, fingerprints.

    Args:
        source: where records and images come from.
        train_transform, eval_transform: image and generator -> tensor.
        calibration: settings of the calibration batches.
        batch_size: examples a device sees at a time in training; a last incomplete batch is dropped.
        eval_batch_size: images at a time in evaluation.
        max_words, max_tokens: where texts are cut.
        sep: whether texts end with [SEP] (BLIP's do, XVLM's do not).
        num_workers: processes that prepare batches; 0 prepares them in this one. No number depends on it.
        seed: of the order and the augmentation of the training set.
        max_broken: see `SeededData`.
        calibration_cache: a folder to keep decoded calibration images in, 150 KB each at 224 pixels (`data.cache`).

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        source: CalibrationSource,
        *,
        train_transform: Transform,
        eval_transform: Transform,
        calibration: CalibrationSettings,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        max_words: int = 30,
        max_tokens: int = 40,
        sep: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        max_broken: int = 0,
        calibration_cache: str | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            max_broken=max_broken,
        )
        check_counts(max_words=max_words, max_tokens=max_tokens)
        self._calibrated_on = source
        self.train_transform, self.eval_transform = train_transform, eval_transform
        self.settings = calibration
        self.max_words, self.max_tokens, self.cache = max_words, max_tokens, calibration_cache
        self.sep, self.tokenizer = sep, make_tokenizer(source.vocabulary, sep=sep)

    def calibration(self) -> CalibrationBatches:
        """A re-iterable of [general, region] batches, the same at every pass, for every task and seed of a run.

        Raises:
            ValueError: the data holds fewer images than the settings ask for.
        """
        s = self.settings
        collate = Collate(self.tokenizer, s.max_words, s.max_tokens, Masker(self.tokenizer, s.mask), s.side)
        cache = Path(self.cache) / self.calibration_fingerprint() if self.cache else None
        return CalibrationBatches(
            [(mended(self._calibration_part(name), self.max_broken), collate) for name in s.parts],
            num_images=s.images,
            batch_size=s.batch_size,
            seed=s.seed,
            num_workers=self.num_workers,
            order=s.order,
            cache=cache,
        )

    def _calibration_part(self, name: str) -> CaptionDataset | RegionDataset:
        s, split = self.settings, getattr(self._calibrated_on, name)()
        _check_enough(name, split, s)
        if name == "general":
            return CaptionDataset(split.records, split.images, s.transform, each="image", seed=s.seed)
        return RegionDataset(split.records, split.images, s.region_transform, regions=s.regions, seed=s.seed)

    def fingerprint(self) -> str:
        """Hash of the data a run sees: training, validation and test."""
        return self._calibrated_on.fingerprint("train", "val", "test")

    def calibration_fingerprint(self) -> str:
        """Hash of the calibration data and of how it is shown; equal hashes mean equal batches."""
        return joined([self._calibrated_on.fingerprint(*self.settings.parts), self.settings, self.sep])


class RetrievalData(TaskData):
    """Training batches of captions, and galleries for validation and test (every image with all of its captions).

    Args:
        source: where records and images come from.
        each: an item per "caption" (the papers) or per "image" with one of its captions drawn.
        shared: see `TaskData`; `batch_size` counts captions.
    """

    def __init__(self, source: RetrievalSource, *, each: str = "caption", **shared: Unpack[Shared]) -> None:
        super().__init__(source, **shared)
        if each not in ("caption", "image"):
            raise ValueError(f"data.each must be 'caption' or 'image', got {each!r}")
        self.source, self.each = source, each
        self.collate = Collate(self.tokenizer, self.max_words, self.max_tokens)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled captions."""
        split = self.source.captions("train")
        dataset = CaptionDataset(split.records, split.images, self.train_transform, each=self.each, seed=self.seed)
        return self.training_loader(dataset, self.collate, "captions")

    def val_dataloader(self) -> DataLoader:
        """The validation gallery."""
        return self._gallery("val")

    def test_dataloader(self) -> DataLoader:
        """The test gallery."""
        return self._gallery("test")

    def _gallery(self, name: str) -> DataLoader:
        split = self.source.captions(name)
        dataset = GalleryDataset(split.records, split.images, self.eval_transform)
        collate = GalleryCollate(self.collate)
        return in_order(dataset, collate, batch_size=self.eval_batch_size, num_workers=self.num_workers)


def _check_enough(name: str, split: Split, settings: CalibrationSettings) -> None:
    there = len(split.records)
    if there < settings.images:
        most = there // settings.batch_size
        raise ValueError(
            f"calibration takes {settings.num_batches} batches of {settings.batch_size} images, its {name} part "
            f"has {there}; lower data.calibration.num_batches to {most} or give more data"
            if settings.num_images is None
            else f"calibration takes {settings.num_images} images, its {name} part has {there}; lower "
            f"data.calibration.num_images or give more data"
        )
