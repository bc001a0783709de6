"""What everybody passes around: one batch of images, captions and regions, and where a layer sits in its model."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a prunable layer sits: its modality (`vision`, `text`, `fusion`, ...) and the name of its block."""

    modality: str
    block: str


@dataclass
class Batch:
    """One batch. Shape legend: b captions, m images, t tokens, p masked positions, n patches of an image.

    A batch with `idx_to_group_img` is a region batch: its b captions describe regions of m <= b images.
    """

    images: Tensor  # (m, 3, h, w) float32, normalised
    text_ids: Tensor | None = None  # (b, t) int64
    text_atts: Tensor | None = None  # (b, t) int64, 1 = real token
    text_ids_masked: Tensor | None = None  # (b, t) int64, some tokens replaced by [MASK]
    masked_pos: Tensor | None = None  # (b, p) int64, positions in 0..t-1
    masked_ids: Tensor | None = None  # (b, p) int64, -100 = ignore
    idx: Tensor | None = None  # (b,) int64, identity of the image: equal values are positives of each other
    idx_to_group_img: Tensor | None = None  # (b,) int64, row of `images` of every caption; None: caption i, image i
    image_atts: Tensor | None = None  # (b, 1 + n), 1 = the patch belongs to the region ([CLS] always does)
    target_bbox: Tensor | None = None  # (b, 4) float32, centre x, centre y, width, height in 0..1
    is_image: Tensor | None = None  # (b,) 1 = the caption describes the whole image (no box loss)
    labels: Tensor | None = None  # (m,) int64, the class of every image
    answer_ids: Tensor | None = None  # (a, t) int64, the answers to all questions (the texts), question by question
    answer_atts: Tensor | None = None  # (a, t) int64, 1 = real token
    answer_counts: Tensor | None = None  # (b,) int64, how many of the answers belong to each question
    answer_weights: Tensor | None = None  # (a,) float32, share of the people who gave it

    @property
    def is_region(self) -> bool:
        """Whether the captions describe regions of shared images."""
        return self.idx_to_group_img is not None

    @property
    def examples(self) -> int:
        """How many images; where there are texts alone, how many texts."""
        return len(self.images) if self.text_ids is None or len(self.images) else len(self.text_ids)

    def to(self, device: torch.device | str) -> Batch:
        """A copy with every tensor on `device`."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: t.to(device, non_blocking=True) for name, t in given.items() if t is not None}
        return Batch(**moved)
