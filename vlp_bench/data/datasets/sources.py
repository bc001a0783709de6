"""Where a retrieval data set comes from: the embedded world here, files in `files`. Both say it in the same records."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlp_bench.data.readers.formats import Split
from vlp_bench.data.records import CaptionedImage, RegionImage
from vlp_bench.data.shapes.drawn_once import drawn_once
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.shapes.world import World

SPLITS = ("train", "val", "test")


class RetrievalSource(Protocol):
    """A retrieval data set and what a model is calibrated on before it is pruned."""

    @property
    def vocabulary(self) -> Mapping[str, int] | Path:
        """The tokenizer's words: word -> id, or a vocab.txt."""
        ...

    def captions(self, split: str) -> Split[CaptionedImage]:
        """ "train", "val" or "test"."""
        ...

    def general(self) -> Split[CaptionedImage]:
        """Calibration, captioned images."""
        ...

    def regions(self) -> Split[RegionImage]:
        """Calibration, captioned regions."""
        ...

    def texts(self, n: int) -> Sequence[str]:
        """The first `n` texts without images; ValueError if there are none."""
        ...

    def fingerprint(self, *splits: str) -> str:
        """Hash of the content of the named splits ("train", "val", "test", "general", "regions")."""
        ...


@drawn_once
def _drawn(kind: str, world: int, split: str, n: int, twins: float) -> tuple[Any, ...]:
    """Records of the embedded world; drawing is a matter of seconds."""
    source = World(world)
    if kind == "gallery":
        return tuple(source.gallery(split, n, twins))
    return tuple(source.images(split, n) if kind == "images" else source.region_images(split, n))


class ShapesRetrieval:
    """Retrieval in the embedded world.

    Args:
        train, val, test, general, regions: how many images each split has.
        twins: share of the val and test galleries that has a hard negative beside it.
        world: seed of the world. It is not the run's: all runs see the same data.

    Raises:
        ValueError: a number is below 1, or twins outside [0, 1].
    """

    def __init__(
        self, *, train: int, val: int, test: int, general: int, regions: int, twins: float = 0.2, world: int = 0
    ) -> None:
        self.sizes = {"train": train, "val": val, "test": test, "general": general, "regions": regions}
        for name, size in self.sizes.items():
            if size < 1:
                raise ValueError(f"the embedded world's {name} split needs at least 1 image, got {size}")
        if not 0 <= twins <= 1:
            raise ValueError(f"twins is a share of the gallery in [0, 1], got {twins}")
        self.twins, self.world = twins, World(world)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        return vocabulary()

    def captions(self, split: str) -> Split[CaptionedImage]:
        kind = "images" if _checked(split) == "train" else "gallery"
        return Split(self._records(kind, f"itr_{split}", split), self.world)

    def general(self) -> Split[CaptionedImage]:
        return Split(self._records("images", "calibration_general", "general"), self.world)

    def regions(self) -> Split[RegionImage]:
        return Split(self._records("regions", "calibration_region", "regions"), self.world)

    def texts(self, n: int) -> Sequence[str]:
        """ValueError: the embedded world tells nothing without a picture."""
        raise ValueError("the embedded world has no texts without pictures; take general or regions")

    def _records(self, kind: str, split: str, name: str) -> Sequence:
        return _drawn(kind, self.world.seed, split, self.sizes[name], self.twins)

    def fingerprint(self, *splits: str) -> str:
        """Hash of every record and of the first drawn image of each split: a change of the world's code shows."""
        total = hashlib.sha256()
        for name in splits:
            split = _split(self, name)
            for record in split.records:
                total.update(repr(record).encode())
            total.update(np.asarray(split.images.open(split.records[0].image)).tobytes())
        return total.hexdigest()[:16]


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"a retrieval split is one of {', '.join(SPLITS)}, got {split!r}")
    return split


def _split(source: RetrievalSource, name: str) -> Split:
    if name in SPLITS:
        return source.captions(name)
    return source.general() if name == "general" else source.regions()


def joined(parts: Iterable[object]) -> str:
    """Sixteen hex digits that stand for several descriptions."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]
