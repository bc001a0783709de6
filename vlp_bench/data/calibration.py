"""What a pruner is shown before it prunes: how much of what, and where it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlp_bench.batch import Batch
from vlp_bench.data.items import Transform, Where
from vlp_bench.data.loading import ORDERS
from vlp_bench.data.readers.formats import Split
from vlp_bench.data.records import CaptionedImage, RegionImage
from vlp_bench.data.text import Tokenizer
from vlp_bench.data.transforms.boxes import BoxCrop

PARTS = ("general", "regions", "text")


@dataclass(frozen=True)
class CalibrationSettings:
    """What a pruner is shown: `num_batches` times `batch_size` captioned images and as many captioned regions.

    The paper takes 3,000 times 32, about 5 % of its pre-training data, and draws them with seed 0 whatever the seed of
    the run. `side`: patches along an image of `transform`. `mask`: share of words hidden for the MLM loss; None where
    a language model is calibrated, which has none.

    `parts`: "general" (captioned images), "regions" and "text" (no images: C4, for a language model), or some of them.
    `num_images`, where given, takes the place of `num_batches`. `order`: "seeded", or "official", the images the
    released code takes with its seed 0.

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
    mask: float | None = 0.25
    seed: int = 0
    parts: Sequence[str] = ("general", "regions")
    num_images: int | None = None
    order: str = "seeded"

    def __post_init__(self) -> None:
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise ValueError(f"data.calibration.parts holds general, regions, text or some, got {list(self.parts)}")
        if self.order not in ORDERS:
            raise ValueError(f"data.calibration.order is {' or '.join(ORDERS)}, got {self.order!r}")
        if self.num_images is not None and self.num_images < 1:
            raise ValueError(f"data.calibration.num_images must be at least 1, got {self.num_images}")
        if self.seed < 0:
            raise ValueError(f"data.calibration.seed must be 0 or more, got {self.seed}")
        for name in ("side", "num_batches", "batch_size", "max_words", "max_tokens", "regions"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.calibration.{name} must be at least 1, got {getattr(self, name)}")
        if self.mask is not None and not 0 < self.mask <= 1:
            raise ValueError(f"data.calibration.mask is a share of the words in (0, 1], got {self.mask}")

    @property
    def images(self) -> int:
        """How many images (texts) of each part are shown."""
        return self.num_images or self.num_batches * self.batch_size

    def check_enough(self, name: str, there: int) -> None:
        """ValueError if part `name` has fewer images than are shown."""
        if there >= self.images:
            return
        raise ValueError(
            f"calibration takes {self.num_batches} batches of {self.batch_size} images, its {name} part "
            f"has {there}; lower data.calibration.num_batches to {there // self.batch_size} or give more data"
            if self.num_images is None
            else f"calibration takes {self.num_images} images, its {name} part has {there}; lower "
            f"data.calibration.num_images or give more data"
        )


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

    def texts(self, n: int) -> Sequence[str]:
        """The first `n` texts without images; ValueError if there are none."""
        ...

    def fingerprint(self, *splits: str) -> str:
        """Hash of the content of the named splits ("train", "val", "test", or a part of calibration)."""
        ...


class TextDataset(Dataset[str]):
    """Plain texts by place."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, where: Where) -> str:
        return self.texts[where[1] if isinstance(where, tuple) else where]


@dataclass(frozen=True)
class TextCollate:
    """b texts -> Batch without images, cut to `max_tokens` tokens of a language model."""

    tokenizer: Tokenizer
    max_tokens: int

    def __call__(self, items: Sequence[str]) -> Batch:
        ids, atts = self.encode(items)
        return Batch(torch.empty(0, 3, 1, 1), ids, atts)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """b texts -> (b, t) ids and (b, t) attention, 1 = token."""
        cut = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        told = self.tokenizer(list(texts), return_tensors="pt", **cut)
        return told["input_ids"], told["attention_mask"]
