"""Pairs of texts without images as Lightning wants them, and the batches a pruner is calibrated on."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from torch.utils.data import DataLoader, Dataset

from vlp_bench.batch import Batch
from vlp_bench.data.bert_vocabulary import bert_vocabulary
from vlp_bench.data.datasets.classification import DrawnBatches, Loading
from vlp_bench.data.datasets.seeded import SeededData, check_counts
from vlp_bench.data.datasets.sources import joined
from vlp_bench.data.items import Where
from vlp_bench.data.loading import ResumableLoader, in_order
from vlp_bench.data.readers.docstrings import Described, digest, documented, read
from vlp_bench.data.text import Tokenizer, make_tokenizer


class Docstrings:
    """Documented functions of Python's standard library.

    Args:
        python: the version whose library it is, so that it stands in every row.
        file: as `vlp-bench data docstrings` writes it; None reads the running Python's library.

    Raises:
        ValueError: they are another Python's.
    """

    def __init__(self, python: str, file: str | None = None) -> None:
        there, self.pairs = read(Path(file)) if file else (platform.python_version(), documented())
        if python != there:
            raise ValueError(
                f"data.source.python={python}, but {file or 'the running Python'} is {there}: set data.source.python="
                f"{there}, or give the file that Python {python} writes (vlp-bench data docstrings FILE)"
            )

    def described(self, split: str) -> list[Described]:
        """The pairs of "train", "val" or "test"."""
        return [pair for pair in self.pairs if pair.split == split]

    def fingerprint(self, *splits: str) -> str:
        """Hash of the pairs of some splits."""
        return digest([pair for pair in self.pairs if pair.split in splits])


@dataclass(frozen=True)
class DescribedCalibration:
    """What a pruner is shown: `num_batches` times `batch_size` training pairs, drawn with `seed`.

    ValueError if a number is below 1.
    """

    num_batches: int = 16
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(**{f"calibration.{n}": getattr(self, n) for n in ("num_batches", "batch_size")})


class DescribedDataset(Dataset[Described]):
    """Pairs by place; nothing about one is drawn."""

    def __init__(self, pairs: Sequence[Described]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, where: Where) -> Described:
        return self.pairs[where[1] if isinstance(where, tuple) else where]


@dataclass(frozen=True)
class DescribedCollate:
    """b pairs -> Batch of 2 b texts and no image: a name and its description, then the next name."""

    tokenizer: Tokenizer
    max_tokens: int

    def __call__(self, items: Sequence[Described]) -> Batch:
        cut = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        texts = [text for item in items for text in (item.name, item.text)]
        told = self.tokenizer(texts, return_tensors="pt", **cut)
        return Batch(torch.empty(0, 3, 1, 1), told["input_ids"], told["attention_mask"])


class DescribedData(SeededData):
    """Training batches of pairs, and galleries for validation and test.

    Args:
        source: where pairs come from.
        calibration: settings of the calibration batches.
        vocab: bert-base-uncased's vocab.txt; None finds it (`bert_vocabulary`).
        max_tokens: where texts are cut.
        loading: see `SeededData`; sizes count pairs.
    """

    def __init__(
        self,
        source: Docstrings,
        *,
        calibration: DescribedCalibration,
        vocab: str | None = None,
        max_tokens: int = 40,
        **loading: Unpack[Loading],
    ) -> None:
        super().__init__(**loading)
        check_counts(max_tokens=max_tokens)
        self.source, self.settings = source, calibration
        self.collate = DescribedCollate(make_tokenizer(bert_vocabulary(vocab), sep=True), max_tokens)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled pairs."""
        return self.training_loader(self._pairs(), self.collate, "pairs")

    def val_dataloader(self) -> DataLoader:
        """The validation gallery, whole on every process."""
        return self._gallery("val")

    def test_dataloader(self) -> DataLoader:
        """The test gallery, whole on every process."""
        return self._gallery("test")

    def _gallery(self, split: str) -> DataLoader:
        """Short pairs first: little padding is computed, and the order of a gallery is of no effect."""
        pairs = sorted(self.source.described(split), key=lambda pair: max(len(pair.name), len(pair.text)))
        sizes = {"batch_size": self.eval_batch_size, "num_workers": self.num_workers}
        return in_order(DescribedDataset(pairs), self.collate, **sizes)  # pyright: ignore[reportArgumentType]

    def _pairs(self) -> DescribedDataset:
        return DescribedDataset(self.source.described("train"))

    def calibration(self) -> DrawnBatches:
        """A re-iterable of batches of training pairs, the same at every pass.

        Raises:
            ValueError: there are fewer pairs than the settings ask for.
        """
        s, dataset = self.settings, self._pairs()
        if len(dataset) < s.num_batches * s.batch_size:
            raise ValueError(
                f"calibration takes {s.num_batches} batches of {s.batch_size} pairs, there are {len(dataset)}; lower "
                f"data.calibration.num_batches to {len(dataset) // s.batch_size}"
            )
        return DrawnBatches(dataset, self.collate, s, self.num_workers)

    def fingerprint(self) -> str:
        """Hash of the pairs a run sees."""
        return self.source.fingerprint("train", "val", "test")

    def calibration_fingerprint(self) -> str:
        """Hash of the calibration data and of how it is shown; equal hashes mean equal batches."""
        return joined([self.source.fingerprint("train"), self.settings, self.collate.max_tokens])
