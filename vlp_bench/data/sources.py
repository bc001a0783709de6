"""Where a retrieval data set comes from: the embedded world, or the released files. Both say it in the same records."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from vlp_bench.data.annotations import read_captions, read_regions
from vlp_bench.data.datasets import ImageSource
from vlp_bench.data.images import Folder
from vlp_bench.data.phrases import vocabulary
from vlp_bench.data.records import CaptionedImage, RegionImage
from vlp_bench.data.shapes import World

R = TypeVar("R", CaptionedImage, RegionImage, covariant=True)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split(Generic[R]):
    """Records and what opens their images."""

    records: Sequence[R]
    images: ImageSource


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

    def fingerprint(self, *splits: str) -> str:
        """Hash of the content of the named splits ("train", "val", "test", "general", "regions")."""
        ...


@cache
def _drawn(kind: str, world: int, split: str, n: int, twins: float) -> tuple[Any, ...]:
    """Records of the embedded world; drawing is a matter of seconds, so every split is drawn once a process."""
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


class FilesRetrieval:
    """Retrieval from the released annotation files (data sets of X-VLM, BLIP and MULTIFLOW).

    Args:
        train, val, test: caption files, and `images`: the folder their paths start from.
        general: captions for calibration (CC3M), and `general_images`: the folder of its images.
        regions: regions for calibration (Visual Genome), and `regions_images`: the folder its paths start from.
        vocab: vocab.txt of the tokenizer.

    A file is read when its split is first asked for.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str,
        test: str,
        images: str,
        general: str,
        general_images: str,
        regions: str,
        regions_images: str,
        vocab: str,
    ) -> None:
        files = {"train": train, "val": val, "test": test, "general": general, "regions": regions}
        self.files = {name: Path(file) for name, file in files.items()}
        self.folders = {"captions": images, "general": general_images, "regions": regions_images}
        self.vocabulary = Path(vocab)

    def captions(self, split: str) -> Split[CaptionedImage]:
        return self._read(_checked(split))

    def general(self) -> Split[CaptionedImage]:
        return self._general

    def regions(self) -> Split[RegionImage]:
        return self._regions

    @cached_property
    def _general(self) -> Split[CaptionedImage]:
        return Split(read_captions(self.files["general"]), Folder(self.folders["general"]))

    @cached_property
    def _regions(self) -> Split[RegionImage]:
        folder = Folder(self.folders["regions"])
        return Split(read_regions(self.files["regions"], folder.size), folder)

    @cached_property
    def _read(self) -> Callable[[str], Split[CaptionedImage]]:
        return cache(lambda split: Split(read_captions(self.files[split]), Folder(self.folders["captions"])))

    def fingerprint(self, *splits: str) -> str:
        """Hash of the bytes of the annotation files; images are not read."""
        total = hashlib.sha256()
        for name in splits:
            try:
                with open(self.files[name], "rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise ValueError(f"cannot read {self.files[name]}: {error.strerror}") from None
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
