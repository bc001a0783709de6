"""Labelled images in files: a folder a class, CoOp's splits, FGVC Aircraft's and MULTIFLOW's lists, CIFAR's binary."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from vlp_bench.data.datasets.files import one_of
from vlp_bench.data.readers import formats
from vlp_bench.data.readers.classes import Cifar, read_aircraft, read_coop, read_folders, read_listed
from vlp_bench.data.readers.formats import Split
from vlp_bench.data.readers.repeated import repeated
from vlp_bench.data.records import LabelledImage, LabelledImages
from vlp_bench.data.transforms.decoding import Folder, checked_orientation

_log = logging.getLogger(__name__)
LABELLED = ("imagefolder", "coop", "aircraft", "listed", "cifar")


class FilesLabelled:
    """Images by class.

    Args:
        root: the data set's folder (for cifar: the binary archive or the folder unpacked from it).
        format: imagefolder (`<split>/<class>/<image>` below root), coop (`annotations`: its split_zhou_*.json,
            `images`: the folder its paths start from), aircraft, listed (MULTIFLOW's Flowers102) or cifar.
        splits: our train, val, test and calibration -> the names the files have; several are joined with a plus.
            A set without validation data may use its test set for it: `{"val": "test"}`.
        names: for imagefolder, what classes are called: classnames.txt or metadata.csv.
        annotations, images: for coop.
        orientation: "upright" obeys EXIF's orientation; "compat" shows images as they are stored, as released.

    Raises:
        ValueError: an unknown format or orientation, or coop without its annotations.
    """

    def __init__(
        self,
        *,
        root: str,
        format: str,
        splits: Mapping[str, str] | None = None,
        names: str | None = None,
        annotations: str | None = None,
        images: str | None = None,
        orientation: str = "upright",
    ) -> None:
        self.upright = checked_orientation(orientation)
        formats.check(format, LABELLED, "data.source.format")
        if format == "coop" and annotations is None:
            raise ValueError("data.source.format=coop needs data.source.annotations, its split_zhou_<Set>.json")
        self.root, self.format, self.names = Path(root), format, names
        self.annotations, self.images = annotations, Path(images or root)
        self.splits = {"train": "train", "val": "val", "test": "test", "calibration": "train"} | dict(splits or {})
        self._read = cache(self._reading)
        self._split = cache(self._labelled)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, by label."""
        return self._read("train")[0].names

    def labelled(self, split: str) -> Split[LabelledImage]:
        """The images of "train", "val", "test" or "calibration", and what opens them.

        Raises:
            ValueError: its classes are not those of the training split, or what the reader says.
        """
        return self._split(one_of(split, tuple(self.splits)))

    def _labelled(self, split: str) -> Split[LabelledImage]:
        found, source = self._read(split)
        for line in repeated(found.records):
            _log.warning("%s, %s: %s", self.root, split, line)
        if found.names != self.classes:
            raise ValueError(f"{self.root}: the classes of {split} are not those of train, so labels would not agree")
        return Split(found.records, source)

    def _reading(self, split: str) -> tuple[LabelledImages, Any]:
        called = self.splits[split]
        if self.format == "cifar":
            return self._cifar.labelled(called), self._cifar
        if self.format == "coop":
            return read_coop(str(self.annotations), called), Folder(self.images, upright=self.upright)
        if self.format == "aircraft":
            return read_aircraft(self.root, called), Folder(self.root, upright=self.upright)
        if self.format == "listed":
            return read_listed(self.root, called.split("+")), Folder(self.root, upright=self.upright)
        return read_folders(self.root / called, self.names), Folder(self.root / called, upright=self.upright)

    @cached_property
    def _cifar(self) -> Cifar:
        return Cifar(self.root)

    def fingerprint(self, *splits: str) -> str:
        """Hash of the records of the named splits and of what the classes are called; images are not read."""
        total = hashlib.sha256(f"images 2, upright={self.upright}".encode())  # 2: on white, 16 bits scaled
        for name in splits:
            total.update(repr((self.labelled(name).records, self.classes)).encode())
        return total.hexdigest()[:16]
