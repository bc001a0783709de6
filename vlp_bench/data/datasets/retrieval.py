"""A task's data as Lightning wants it, whatever it comes from, and the batches a pruner is calibrated on."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from torch.utils.data import DataLoader, Dataset
from transformers import BertTokenizer

from vlp_bench.batch import Batch
from vlp_bench.data.calibration import CalibrationSettings, CalibrationSource, TextCollate, TextDataset
from vlp_bench.data.datasets.seeded import SeededData, check_counts
from vlp_bench.data.datasets.sources import SPLITS, RetrievalSource, joined
from vlp_bench.data.items import CaptionDataset, Collate, RegionDataset, Transform
from vlp_bench.data.loading import CalibrationBatches, GalleryCollate, GalleryDataset, ResumableLoader, in_order
from vlp_bench.data.records import said_in
from vlp_bench.data.text import Masker, Tokenizer, make_tokenizer, too_long, unknown_words
from vlp_bench.data.transforms.replace_broken import replace_broken

_log = logging.getLogger(__name__)


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
    language: Tokenizer | None
    text_tokens: int
    max_unknown: float


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
        language: tokenizer of the language model that is calibrated (BLIP-2); None where BERT's words are read.
        text_tokens: where texts without images are cut, in its tokens (ECoFLaP: 512).
        max_unknown: share of a split's words that the vocabulary may lack before the run stops; what it lacks below
            that is said.

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
        language: Tokenizer | None = None,
        text_tokens: int = 512,
        max_unknown: float = 0.2,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            max_broken=max_broken,
        )
        check_counts(max_words=max_words, max_tokens=max_tokens, text_tokens=text_tokens)
        if not 0 <= max_unknown <= 1:
            raise ValueError(f"data.max_unknown is a share of the words in [0, 1], got {max_unknown}")
        self._calibrated_on, self.max_unknown = source, max_unknown
        self._looked_at: set[str] = set()
        self.train_transform, self.eval_transform = train_transform, eval_transform
        self.settings = calibration
        self.max_words, self.max_tokens, self.cache = max_words, max_tokens, calibration_cache
        self.sep, self.language, self.text_tokens = sep, language, text_tokens
        if language is not None and calibration.mask is not None:
            raise ValueError("a language model hides no words: set data.calibration.mask=null")
        if "text" in calibration.parts and (language is None or calibration_cache is not None):
            raise ValueError("data.calibration.parts has text, which takes a language model and no calibration_cache")

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        """BERT's, of the task's texts."""
        return make_tokenizer(self._calibrated_on.vocabulary, sep=self.sep)

    def inspect(self, rows: int | None = None, *, training: bool = True) -> None:
        """Look at vocabulary and texts before anything is computed; what a language model reads is left to it.

        Args:
            rows: of the model's table of words.
            training: whether the training split will be read.

        Raises:
            ValueError: the vocabulary has more words than the table, or lacks too many of a split's.
        """
        if self.language is not None:
            return
        if rows is not None and (last := max(self.tokenizer.get_vocab().values())) >= rows:
            raise ValueError(
                f"{self._vocabulary} has {last + 1:,} words, the model's table {rows:,}: give the vocabulary it was "
                "trained with (paths.vocab=FILE, or data.source.vocab=world for the small models), or other weights"
            )
        there = getattr(self._calibrated_on, "splits", SPLITS)
        for split in SPLITS if training else SPLITS[1:]:
            if split in there:
                texts = self.texts_of(split)
                self.check_words(split, texts)
                self._say_cut(split, texts)

    def words_read(self, split: str) -> int:
        """How many words of a text of a split are read at most."""
        return self.max_words

    def _say_cut(self, split: str, texts: Sequence[str]) -> None:
        """Say how many texts are longer than what is read of them."""
        words = self.words_read(split)
        if cut := too_long(texts, self.tokenizer, words, self.max_tokens):
            most = f"{words} words or {self.max_tokens} tokens (data.max_words, data.max_tokens)"
            _log.warning("%s: %d of %d texts are longer than %s and cut", split, cut, len(texts), most)

    @property
    def _vocabulary(self) -> str:
        given = self._calibrated_on.vocabulary
        return f"the vocabulary {given}" if isinstance(given, Path) else "the embedded world's vocabulary"

    def texts_of(self, split: str) -> Sequence[str]:
        """Every text of "train", "val" or "test" that a model will read."""
        return ()

    def check_words(self, what: str, texts: Iterable[str]) -> None:
        """Say once how many words of a split the vocabulary lacks; ValueError if more than `max_unknown`."""
        if self.language is not None or what in self._looked_at:
            return
        self._looked_at.add(what)
        found = unknown_words(texts, self.tokenizer)
        if found.share > self.max_unknown:
            raise ValueError(
                f"{what}: {found}. {self._vocabulary} is not that of these texts: take a model with another one (the "
                "small ones know the embedded world's words alone; benchmark=paper with paths.weights and paths.vocab "
                f"has BERT's), or go on all the same with data.max_unknown=1 (now {self.max_unknown:g})"
            )
        if found.unknown:
            _log.warning("%s: %s", what, found)

    def calibration(self) -> CalibrationBatches:
        """A re-iterable of [general, region] batches, the same at every pass, for every task and seed of a run.

        Raises:
            ValueError: the data holds fewer images than the settings ask for.
        """
        s = self.settings
        cache = Path(self.cache) / self.calibration_fingerprint() if self.cache else None
        return CalibrationBatches(
            [self._calibration_part(name) for name in s.parts],
            num_images=s.images,
            batch_size=s.batch_size,
            seed=s.seed,
            num_workers=self.num_workers,
            order=s.order,
            cache=cache,
        )

    def _calibration_part(self, name: str) -> tuple[Dataset[Any], Callable[[Sequence[Any]], Batch]]:
        """A part's data set and what makes batches of it."""
        s, words = self.settings, self.language or self.tokenizer
        if name == "text":
            return TextDataset(self._calibrated_on.texts(s.images)), TextCollate(words, self.text_tokens)
        split = getattr(self._calibrated_on, name)()
        s.check_enough(name, len(split.records))
        self.check_words(f"calibration ({name})", said_in(split.records))
        if name == "general":
            dataset = CaptionDataset(split.records, split.images, s.transform, each="image", seed=s.seed)
        else:
            dataset = RegionDataset(split.records, split.images, s.region_transform, regions=s.regions, seed=s.seed)
        masker = None if s.mask is None else Masker(self.tokenizer, s.mask)
        return replace_broken(dataset, self.max_broken), Collate(words, s.max_words, s.max_tokens, masker, s.side)

    def fingerprint(self) -> str:
        """Hash of the data a run sees: training, validation and test."""
        return self._calibrated_on.fingerprint("train", "val", "test")

    def calibration_fingerprint(self) -> str:
        """Hash of the calibration data and of how it is shown; equal hashes mean equal batches."""
        told = [self._calibrated_on.fingerprint(*self.settings.parts), self.settings, self.sep]
        if self.language is not None:
            told += [type(self.language).__name__, self.text_tokens]
        return joined(told)


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

    def texts_of(self, split: str) -> Sequence[str]:
        return said_in(self.source.captions(split).records)

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
