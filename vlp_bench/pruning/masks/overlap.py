"""What two masks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Overlap:
    """What two masks of one layer, or of several, have in common."""

    kept_first: int
    kept_second: int
    kept_both: int

    @property
    def iou(self) -> float:
        """Intersection over union of the kept weights; 1 if both keep nothing."""
        union = self.kept_first + self.kept_second - self.kept_both
        return self.kept_both / union if union else 1.0

    @property
    def differ(self) -> int:
        """Number of weights that are kept by one of the two alone."""
        return self.kept_first + self.kept_second - 2 * self.kept_both

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.kept_first + other.kept_first,
            self.kept_second + other.kept_second,
            self.kept_both + other.kept_both,
        )


def overlap(first: Tensor, second: Tensor) -> Overlap:
    """Compares two masks of one shape."""
    if first.shape != second.shape:
        raise ValueError(f"masks of shapes {tuple(first.shape)} and {tuple(second.shape)} can't be compared")
    first, second = first.bool().cpu(), second.bool().cpu()
    return Overlap(int(first.sum()), int(second.sum()), int((first & second).sum()))


def diff(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Overlap]:
    """Compares two sets of masks layer by layer. Raises ValueError if they are of different layers."""
    if unmatched := sorted(set(first) ^ set(second)):
        raise ValueError(f"only one of the two has a mask for {', '.join(unmatched[:3])}; {len(unmatched)} in all")
    return {name: overlap(first[name], second[name]) for name in first}
