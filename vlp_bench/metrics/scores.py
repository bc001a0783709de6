"""What a scorer of texts returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vlp_bench.data.records import CaptionedImage


@dataclass(frozen=True)
class Scores:
    """Values by metric; `examples`: (images,) their values of single images; `notes`: why a metric is not there."""

    values: dict[str, float]
    examples: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


class CaptionScorer(Protocol):
    """Compares captions with images and what people said of them."""

    def prepare(self) -> None:
        """Start what takes long to start, before it is needed."""
        ...

    def __call__(self, captions: Mapping[int, str], images: Sequence[CaptionedImage]) -> Scores:
        """One caption for every image, by its place in `images`."""
        ...
