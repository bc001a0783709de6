"""Images to be described: captions after a prompt in training, images with what people said of them in evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Required, TypedDict, Unpack

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from vlp_bench.batch import Batch
from vlp_bench.data.datasets.retrieval import CalibrationSource, Shared, TaskData
from vlp_bench.data.datasets.sources import ShapesRetrieval, Split, joined
from vlp_bench.data.items import CaptionDataset, Item
from vlp_bench.data.loading import GalleryDataset, ResumableLoader
from vlp_bench.data.records import CaptionedImage, said_in
from vlp_bench.data.text import make_tokenizer, pre_caption

PROMPT = "a picture of"


class CaptionSource(CalibrationSource, Protocol):
    """A set of captioned images and what a model is calibrated on before it is pruned."""

    def captions(self, split: str) -> Split[CaptionedImage]:
        """ "train", "val" or "test"."""
        ...


class Sizes(TypedDict, total=False):
    """The arguments of `ShapesRetrieval`."""

    train: Required[int]
    val: Required[int]
    test: Required[int]
    general: Required[int]
    regions: Required[int]
    twins: float
    world: int


class ShapesCaptions(ShapesRetrieval):
    """Captioning in the embedded world: every image with five true captions.

    What a model is calibrated on is that of retrieval, so that a mask serves both.

    Args:
        train_split: the split of the world to learn from: "ic_train", or "pretrain" for the first of two stages.
        sizes: see `ShapesRetrieval`.
    """

    def __init__(self, *, train_split: str = "ic_train", **sizes: Unpack[Sizes]) -> None:
        super().__init__(**sizes)
        if train_split not in ("ic_train", "pretrain"):
            raise ValueError(f"train_split must be ic_train or pretrain, got {train_split!r}")
        self.splits = {"train": train_split, "val": "ic_val", "test": "ic_test"}

    def captions(self, split: str) -> Split[CaptionedImage]:
        if split not in self.splits:
            raise ValueError(f"a split of captions is train, val or test, got {split!r}")
        return Split(self._records("images", self.splits[split], split), self.world)


@dataclass
class CaptionCollate:
    """Captions -> Batch: the prompt, the cleaned caption of `max_words` words, [SEP]; `max_tokens` at most."""

    tokenizer: BertTokenizer
    prompt: str
    max_words: int
    max_tokens: int

    def __call__(self, items: Sequence[Item]) -> Batch:
        texts = [f"{self.prompt} {pre_caption(item.captions[0], self.max_words)}".lstrip() for item in items]
        cut = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        told = self.tokenizer(texts, return_tensors="pt", **cut)
        return Batch(torch.stack([item.image for item in items]), told["input_ids"], told["attention_mask"])


def pictures(items: Sequence[Item]) -> Batch:
    """Images -> Batch without texts; `idx`: their places in the split."""
    return Batch(torch.stack([item.image for item in items]), idx=torch.tensor([item.idx for item in items]))


class CaptioningData(TaskData):
    """Training batches of captions after the prompt; validation and test images in order, dealt to the processes.

    Args:
        source: where captions and images come from.
        prompt: what every caption follows; it is given in generation and left out of the loss.
        each: an item per "caption" (the papers) or per "image" with one of its captions drawn.
        tested: where test images come from if not from `source` (NoCaps after training on COCO).
        shared: see `TaskData`; `batch_size` counts captions; captions end with [SEP] whatever `sep`.
    """

    def __init__(
        self,
        source: CaptionSource,
        *,
        prompt: str = PROMPT,
        each: str = "caption",
        tested: CaptionSource | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(source, **shared)
        self.source, self.prompt, self.each, self.tested = source, prompt, each, tested
        if self.language is None:
            self.prompted(1)  # a vocabulary that is not there is told now

    @cached_property
    def written(self) -> BertTokenizer:
        """Of captions, which end with [SEP] whatever `sep`."""
        return make_tokenizer(self.source.vocabulary, sep=True)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled captions."""
        split = self.source.captions("train")
        dataset = CaptionDataset(split.records, split.images, self.train_transform, each=self.each, seed=self.seed)
        collate = CaptionCollate(self.written, self.prompt, self.max_words, self.max_tokens)
        return self.training_loader(dataset, collate, "captions")

    def texts_of(self, split: str) -> Sequence[str]:
        """Captions to learn from; those of evaluation are only compared with."""
        return said_in(self.source.captions(split).records) if split == "train" else ()

    def val_dataloader(self) -> DataLoader:
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation("test")

    def _evaluation(self, name: str) -> DataLoader:
        split = self._split(name)
        return self.dealt_loader(GalleryDataset(split.records, split.images, self.eval_transform), pictures)

    def described(self, split: str) -> Sequence[CaptionedImage]:
        """The images of a split with their captions; `Batch.idx` counts them."""
        return self._split(split).records

    def _split(self, name: str) -> Split[CaptionedImage]:
        source = self.source if self.tested is None or name != "test" else self.tested
        return source.captions(name)

    def fingerprint(self) -> str:
        """Hash of the data a run sees: training, validation and test."""
        own = super().fingerprint()
        return own if self.tested is None else joined([own, self.tested.fingerprint("test")])

    @property
    def end(self) -> int:
        """The token that ends a caption."""
        return int(self.written.convert_tokens_to_ids("[SEP]"))  # pyright: ignore[reportArgumentType]

    def prompted(self, b: int) -> Tensor:
        """(b, t) ids every caption starts from: [CLS] and the prompt."""
        [ids] = self.written([self.prompt], return_tensors="pt")["input_ids"]
        return ids[:-1].expand(b, -1)

    def words(self, ids: Tensor) -> list[str]:
        """(b, t) generated ids -> the text after the prompt, without special tokens and those of the model alone."""
        said = ids[:, self.prompted(1).shape[1] :]
        said = said.masked_fill(said >= len(self.written), self.written.get_vocab()["[PAD]"])
        return self.written.batch_decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=True)
