"""Pairs of images with a sentence that is true or false of them (NLVR2): from records to batches."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import BertTokenizer

from vlp_bench.batch import Batch
from vlp_bench.data.datasets.retrieval import CalibrationSource, Shared, TaskData
from vlp_bench.data.datasets.sources import ShapesRetrieval, Split
from vlp_bench.data.items import ImageSource, Transform, Where, opened
from vlp_bench.data.loading import ResumableLoader
from vlp_bench.data.records import ImagePair, said_in
from vlp_bench.data.shapes.drawn_once import drawn_once
from vlp_bench.data.shapes.statements import statements
from vlp_bench.data.shapes.world import World
from vlp_bench.data.text import pre_caption

_SIDES = re.compile(r"\b(left|right)")


class PairSource(CalibrationSource, Protocol):
    """A set of sentences about two images and what a model is calibrated on before it is pruned."""

    def pairs(self, split: str) -> Split[ImagePair]:
        """ "train", "val" or "test"."""
        ...


@drawn_once
def _drawn(world: int, split: str, n: int) -> tuple[ImagePair, ...]:
    """Statements of the embedded world."""
    return tuple(statements(World(world), split, n))


class ShapesPairs(ShapesRetrieval):
    """Statements about two pictures of the embedded world; arguments as for `ShapesRetrieval`.

    Their scenes are those of the splits of questions. What a model is calibrated on is that of retrieval, so that a
    mask serves both.
    """

    def pairs(self, split: str) -> Split[ImagePair]:
        if split not in ("train", "val", "test"):
            raise ValueError(f"a split of pairs is train, val or test, got {split!r}")
        return Split(_drawn(self.world.seed, f"vqa_{split}", self.sizes[split]), self.world)

    def fingerprint(self, *splits: str) -> str:
        """Hash of every pair, and of retrieval's calibration data; of the first drawn image of each split too."""
        total = hashlib.sha256()
        for name in splits:
            if name in ("general", "regions"):
                return super().fingerprint(*splits)
            split = self.pairs(name)
            total.update("\n".join(map(repr, split.records)).encode())
            total.update(np.asarray(split.images.open(split.records[0].images[0])).tobytes())
        return total.hexdigest()[:16]


@dataclass(frozen=True)
class Paired:
    """A left and a right image, each (3, h, w), a sentence, whether it is true, and the sentence's number."""

    images: tuple[Tensor, Tensor]
    sentence: str
    label: bool
    said: int


def check_labelled(records: Sequence[ImagePair], where: str = "") -> None:
    """ValueError for pairs that are neither true nor false."""
    if unknown := [record for record in records if record.label is None]:
        raise ValueError(
            f"{where}{len(unknown)} of {len(records)} pairs have no label, the first is {unknown[0].sentence[:80]!r} "
            f"of {unknown[0].images[0]}: give a split whose labels are public"
        )


class PairDataset(Dataset[Paired]):
    """Pairs as items; with probability `swap` the images change places, and "left" and "right" in the sentence too."""

    def __init__(
        self,
        records: Sequence[ImagePair],
        images: ImageSource,
        transform: Transform,
        *,
        swap: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_labelled(records)
        self.records, self.images, self.transform, self.swap, self.seed = records, images, transform, swap, seed
        numbers: dict[str, int] = {}
        self.said = [numbers.setdefault(r.said or r.sentence, len(numbers)) for r in records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, where: Where) -> Paired:
        epoch, index = where if isinstance(where, tuple) else (0, where)
        rng = np.random.default_rng((self.seed, epoch, index))
        record = self.records[index]
        left, right = (self.transform(opened(self.images, key, self.transform), rng) for key in record.images)
        if self.swap and rng.random() < self.swap:
            return Paired((right, left), other_way_round(record.sentence), bool(record.label), self.said[index])
        return Paired((left, right), record.sentence, bool(record.label), self.said[index])


def other_way_round(sentence: str) -> str:
    """In lower case, every "left" a "right" and every "right" a "left", also at the start of a word (leftmost)."""
    return _SIDES.sub(lambda side: "right" if side[0] == "left" else "left", sentence.lower())


@dataclass
class PairCollate:
    """Pairs -> Batch: images (2 b, 3, h, w), those of a pair one after the other, b sentences, labels 1 where true.

    `idx`: numbers of the sentences; a sentence that is said of several pairs has one.
    """

    tokenizer: BertTokenizer
    max_words: int
    max_tokens: int

    def __call__(self, items: Sequence[Paired]) -> Batch:
        cut = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        texts = [pre_caption(item.sentence, self.max_words) for item in items]
        told = self.tokenizer(texts, return_tensors="pt", **cut)
        batch = Batch(torch.stack([image for item in items for image in item.images]))
        batch.text_ids, batch.text_atts = told["input_ids"], told["attention_mask"]
        batch.labels = torch.tensor([int(item.label) for item in items])
        batch.idx = torch.tensor([item.said for item in items])
        return batch


class PairData(TaskData):
    """Training batches of pairs; validation and test pairs in order, dealt to the processes.

    Args:
        source: where pairs and images come from.
        swap: share of the training pairs whose images change places, "left" and "right" with them (BLIP: one half).
        shared: see `TaskData`; `batch_size` counts pairs.
    """

    classes = ("false", "true")

    def __init__(self, source: PairSource, *, swap: float = 0.0, **shared: Unpack[Shared]) -> None:
        super().__init__(source, **shared)
        if not 0 <= swap <= 1:
            raise ValueError(f"data.swap is a share of the pairs in [0, 1], got {swap}")
        self.source, self.swap = source, swap
        self.collate = PairCollate(self.tokenizer, self.max_words, self.max_tokens)

    def inspect(self, rows: int | None = None, *, training: bool = True) -> None:
        """As `TaskData.inspect`; ValueError for pairs without a label, too."""
        super().inspect(rows, training=training)
        for split in ("train", "val", "test") if training else ("test",):
            check_labelled(self.source.pairs(split).records, f"{split}: ")

    def labels(self, split: str) -> list[int]:
        """The class of every example of "train", "val" or "test"."""
        return [int(bool(record.label)) for record in self.source.pairs(split).records]

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled pairs."""
        split = self.source.pairs("train")
        dataset = PairDataset(split.records, split.images, self.train_transform, swap=self.swap, seed=self.seed)
        return self.training_loader(dataset, self.collate, "pairs")

    def texts_of(self, split: str) -> Sequence[str]:
        return said_in(self.source.pairs(split).records)

    def val_dataloader(self) -> DataLoader:
        """The validation pairs, each process its share."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """The test pairs, each process its share."""
        return self._evaluation("test")

    def _evaluation(self, name: str) -> DataLoader:
        split = self.source.pairs(name)
        return self.dealt_loader(PairDataset(split.records, split.images, self.eval_transform), self.collate)
