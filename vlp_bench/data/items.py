"""Record -> item -> batch: map-style datasets of captions and of captioned regions, and the collation both share.

An item is asked for by index, or by (epoch, index): with the epoch, everything random about it is decided, whatever the
worker, the rank or a resume.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vlp_bench.batch import Batch
from vlp_bench.data.records import Box, CaptionedImage, RegionCaption, RegionImage
from vlp_bench.data.text import Masker, Tokenizer, pre_caption
from vlp_bench.data.transforms.boxes import BoxCrop
from vlp_bench.data.transforms.decoding import Least, Size

Where = int | tuple[int, int]
"""An index, or (epoch, index)."""
Transform = Callable[[Image.Image, np.random.Generator], Tensor]
"""Image and its generator -> (3, h, w) float32, normalised."""


class ImageSource(Protocol):
    """Opens the images that records name."""

    def open(self, key: str) -> Image.Image:
        """The image, RGB. ValueError, naming the key, if it cannot be read."""
        ...


@runtime_checkable
class Drafting(Protocol):
    """An image source that can decode an image smaller than it is."""

    drafts: bool

    def open(self, key: str, least: Least | None = None) -> Image.Image:
        """The image, RGB, at `least` of its size or more."""
        ...


@runtime_checkable
class Frugal(Protocol):
    """A transform that knows what size suffices."""

    def least(self, size: Size) -> Size:
        """Size of an image -> the smallest size it may be decoded at."""
        ...


@dataclass(frozen=True)
class Item:
    """One image with the captions asked about it; `boxes` where they describe regions.

    image: (3, h, w). idx: identity of the image. boxes: x, y, w, h as shares of the image's width and height.
    draw: what seeds the masking of its words.
    """

    image: Tensor
    captions: tuple[str, ...]
    idx: int
    draw: int
    boxes: tuple[Box, ...] = ()


def opened(source: ImageSource, key: str, transform: object) -> Image.Image:
    """The image of a key; decoded smaller where the source can and the transform needs no more (`Augment.least`)."""
    if isinstance(source, Drafting) and isinstance(transform, Frugal):
        return source.open(key, transform.least)
    return source.open(key)


class CaptionDataset(Dataset[Item]):
    """Captioned images; `each` is "caption" (an item per caption) or "image" (an item per image, its caption drawn)."""

    def __init__(
        self,
        records: Sequence[CaptionedImage],
        source: ImageSource,
        transform: Transform,
        *,
        each: str = "caption",
        seed: int = 0,
    ) -> None:
        if each not in ("caption", "image"):
            raise ValueError(f"each must be 'caption' or 'image', got {each!r}")
        self.records, self.source, self.transform, self.seed = records, source, transform, seed
        self.at = [(i, j) for i, r in enumerate(records) for j in range(len(r.captions) if each == "caption" else 1)]
        self.drawn = each == "image"
        identities = {r.image_id: n for n, r in enumerate(reversed(records))}
        self.identity = [identities[r.image_id] for r in records]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, where: Where) -> Item:
        epoch, index = where if isinstance(where, tuple) else (0, where)
        rng = np.random.default_rng((self.seed, epoch, index))
        i, j = self.at[index]
        record = self.records[i]
        caption = record.captions[int(rng.integers(len(record.captions))) if self.drawn else j]
        image = self.transform(opened(self.source, record.image, self.transform), rng)
        return Item(image, (caption,), self.identity[i], int(rng.integers(2**31)))


class RegionDataset(Dataset[Item]):
    """Images with up to `regions` of their captioned regions, drawn."""

    def __init__(
        self,
        records: Sequence[RegionImage],
        source: ImageSource,
        transform: Transform | BoxCrop,
        *,
        regions: int = 1,
        seed: int = 0,
    ) -> None:
        if regions < 1:
            raise ValueError(f"regions must be at least 1, got {regions}")
        self.records, self.source, self.transform = records, source, transform
        self.regions, self.seed = regions, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, where: Where) -> Item:
        epoch, index = where if isinstance(where, tuple) else (0, where)
        rng = np.random.default_rng((self.seed, epoch, index))
        record = self.records[index]
        if isinstance(self.transform, BoxCrop):
            size = (self.transform.size, self.transform.size)
            image, chosen = self.transform.place(self.source.open(record.image), record, self.regions, rng)
        else:
            size, order = record.size, rng.permutation(len(record.regions))[: self.regions]
            chosen = [record.regions[int(k)] for k in order]
            image = self.transform(self.source.open(record.image), rng)
        return region_item(image, chosen, size, index, int(rng.integers(2**31)))


def region_item(image: Tensor, regions: Sequence[RegionCaption], size: tuple[int, int], idx: int, draw: int) -> Item:
    """An item of regions whose boxes are measured in an image of `size` (width, height) pixels."""
    w, h = size
    boxes = tuple((r.box[0] / w, r.box[1] / h, r.box[2] / w, r.box[3] / h) for r in regions)
    return Item(image, tuple(r.caption for r in regions), idx, draw, boxes)


def patch_mask(box: Box, side: int) -> Tensor:
    """(1 + side^2,) int64: [CLS] and the patches of a side x side grid that a box (shares of the image) touches."""
    x, y, w, h = box
    left, top = (min(math.floor(v * side), side - 1) for v in (x, y))
    right = max(left + 1, min(math.ceil((x + w) * side), side))
    bottom = max(top + 1, min(math.ceil((y + h) * side), side))
    grid = torch.zeros(side, side, dtype=torch.int64)
    grid[top:bottom, left:right] = 1
    return torch.cat([torch.ones(1, dtype=torch.int64), grid.flatten()])


@dataclass
class Collate:
    """Items -> Batch. Give a `masker` where MLM is trained, and the patches per side where regions come.

    Captions are cleaned, cut to `max_words` words and `max_tokens` tokens and padded to the longest of the batch.
    """

    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    masker: Masker | None = None
    side: int | None = None

    def __call__(self, items: Sequence[Item]) -> Batch:
        captions = [c for item in items for c in item.captions]
        batch = Batch(torch.stack([item.image for item in items]), *self.encode(captions))
        batch.idx = torch.tensor([item.idx for item in items for _ in item.captions])
        if self.masker is not None and batch.text_ids is not None:
            generator = torch.Generator().manual_seed(items[0].draw)
            batch.text_ids_masked, batch.masked_pos, batch.masked_ids = self.masker(batch.text_ids, generator)
        return self._with_regions(batch, items) if items[0].boxes else batch

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """b captions -> (b, t) ids and (b, t) attention, 1 = token."""
        texts = [pre_caption(c, self.max_words) for c in captions]
        cut = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        encoded = self.tokenizer(texts, return_tensors="pt", **cut)
        return encoded["input_ids"], encoded["attention_mask"]

    def _with_regions(self, batch: Batch, items: Sequence[Item]) -> Batch:
        assert self.side is not None, "a region batch needs the number of patches per side"
        boxes = [b for item in items for b in item.boxes]
        batch.idx_to_group_img = torch.tensor([n for n, item in enumerate(items) for _ in item.boxes])
        batch.image_atts = torch.stack([patch_mask(b, self.side) for b in boxes])
        batch.target_bbox = torch.tensor([(x + w / 2, y + h / 2, w, h) for x, y, w, h in boxes], dtype=torch.float32)
        batch.is_image = torch.zeros(len(boxes), dtype=torch.int64)
        batch.idx = None  # two regions of one image are not positives of each other
        return batch
