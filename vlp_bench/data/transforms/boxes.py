"""Crops and flips of images whose captions speak of boxes: the boxes go along, and no caption becomes untrue."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlp_bench.data.records import Box, RegionCaption, RegionImage
from vlp_bench.data.transforms.augment import COLOUR_OPERATIONS, RandAugment
from vlp_bench.data.transforms.decoding import Size
from vlp_bench.data.transforms.images import check_share, check_size, cropped, normalised

_SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


def says_side(*texts: str) -> bool:
    """Whether a text has a word that begins with left or right (also "lefthand", "rightmost"), untrue in a mirror."""
    return any(_SIDES.search(text) for text in texts)


@dataclass
class BoxCrop:
    """X-VLM's view of captioned regions: a random crop that holds one of them wholly, a flip, five colour operations.

    A region is described if more than share `least` of its box lies in the crop; its box is cut to that part. An image
    is mirrored with probability `flip`; with `aware`, not if a described region says left or right (the released
    code mirrors it all the same). `n`, `m`, `compat`: of RandAugment, colour operations alone.

    Raises:
        ValueError: a value out of its range.
    """

    size: int
    least: float = 0.5
    flip: float = 0.5
    aware: bool = True
    n: int = 2
    m: float = 7
    compat: str | None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        check_share("least", self.least)
        check_share("flip", self.flip)
        self._randaugment = RandAugment(self.n, self.m, COLOUR_OPERATIONS, self.compat)

    def place(
        self, image: Image.Image, record: RegionImage, most: int, rng: np.random.Generator
    ) -> tuple[Tensor, list[RegionCaption]]:
        """(3, size, size) float32 and up to `most` of the regions, at least one, their boxes in pixels of it.

        The crop holds one region, drawn; which regions are described is drawn again, among those it shows.
        """
        regions = _scaled(record, image.size)
        anchor = regions[int(rng.integers(len(regions)))]
        crop = around(anchor.box, image.size, rng)
        order = rng.permutation(len(regions))
        seen = [cut for k in order if (cut := self._cut(regions[int(k)], crop)) is not None][:most]
        mirror = rng.random() < self.flip and not (self.aware and says_side(*(r.caption for r in seen)))
        view = cropped(image, self.size, crop, mirror=mirror)
        width, height = crop[2] - crop[0], crop[3] - crop[1]
        shown = [RegionCaption(r.caption, self._grown(r.box, (width, height), mirror)) for r in seen]
        return torch.from_numpy(normalised(self._randaugment(view, rng))), shown

    def _cut(self, region: RegionCaption, crop: tuple[int, int, int, int]) -> RegionCaption | None:
        """The part of a region inside the crop, measured in it; None if too little of it is there."""
        x, y, w, h = region.box
        left, top = max(x, crop[0]), max(y, crop[1])
        width, height = min(x + w, crop[2]) - left, min(y + h, crop[3]) - top
        if min(width, height) <= 0 or width * height <= self.least * w * h:
            return None
        return RegionCaption(region.caption, (left - crop[0], top - crop[1], width, height))

    def _grown(self, box: Box, frame: Size, mirror: bool) -> Box:
        """A box measured in a crop of `frame` pixels, in the crop resized to a square and maybe mirrored."""
        across, down = self.size / frame[0], self.size / frame[1]
        x, y, w, h = box
        return ((frame[0] - x - w) if mirror else x) * across, y * down, w * across, h * down


def around(box: Box, frame: Size, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, lower of a random crop that holds the box, each side anywhere between it and the border."""
    x, y, w, h = box
    left, top = int(rng.integers(math.floor(x) + 1)), int(rng.integers(math.floor(y) + 1))
    right = int(rng.integers(min(math.ceil(x + w), frame[0]), frame[0] + 1))
    lower = int(rng.integers(min(math.ceil(y + h), frame[1]), frame[1] + 1))
    return left, top, right, lower


def _scaled(record: RegionImage, size: Size) -> Sequence[RegionCaption]:
    """The regions in pixels of an image of `size`, which a smaller copy or a cheaper decoding may have changed."""
    if size == record.size:
        return record.regions
    across, down = size[0] / record.size[0], size[1] / record.size[1]
    return [
        RegionCaption(r.caption, (r.box[0] * across, r.box[1] * down, r.box[2] * across, r.box[3] * down))
        for r in record.regions
    ]
