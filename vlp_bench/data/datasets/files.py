"""Data sets of files: what is calibrated on, and on top of it the splits of a task, each in a format named by one word.

A file is read when its split is first asked for. An image folder is where the paths of its file start; images that
are not at their path are looked for by name in train2014, val2014, test2015 (2017, too), VG_100K and VG_100K_2.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from vlp_bench.data.bert_vocabulary import bert_vocabulary
from vlp_bench.data.readers import checked, formats
from vlp_bench.data.readers.formats import Split
from vlp_bench.data.readers.texts import read_texts
from vlp_bench.data.records import CaptionedImage, ImagePair, Question, RegionImage
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.transforms.decoding import checked_orientation

SPLITS = ("train", "val", "test")


class FilesCalibration:
    """What a model is calibrated on: captioned images (CC3M), captioned regions (Visual Genome), and a vocabulary.

    Args:
        general: captions, and `general_images`: the folder of their images (not looked at for shards and tables).
        regions: regions, and `regions_images`: the folder their paths start from.
        vocab: vocab.txt of the tokenizer; None looks for bert-base-uncased's (`bert_vocabulary`); "world" is the
            embedded world's, which the small models were trained with.
        general_format: salesforce, webdataset, files, parquet, coco, karpathy or nocaps.
        regions_format: salesforce, grouped or visual_genome.
        text: a shard of C4, to calibrate language models on.
        orientation: "upright" obeys EXIF's orientation; "compat" shows images as they are stored, as released.

    Raises:
        ValueError: another orientation.
    """

    def __init__(
        self,
        *,
        general: str,
        vocab: str | None = None,
        general_images: str = "",
        general_format: str = "salesforce",
        regions: str | None = None,
        regions_images: str = "",
        regions_format: str = "salesforce",
        text: str | None = None,
        orientation: str = "upright",
    ) -> None:
        self.upright = checked_orientation(orientation)
        given = {"general": general, "regions": regions, "text": text}
        self.files = {name: Path(file) for name, file in given.items() if file is not None}
        self._images = {"general": general_images, "regions": regions_images}
        formats.check(general_format, (*formats.CAPTIONS, *formats.HOLDING_IMAGES), "data.source.general_format")
        formats.check(regions_format, formats.REGIONS, "data.source.regions_format")
        self._formats = {"general": general_format, "regions": regions_format}
        self._vocab = vocab

    @cached_property
    def vocabulary(self) -> Mapping[str, int] | Path:
        """The vocab.txt, or the embedded world's words."""
        return vocabulary() if self._vocab == "world" else bert_vocabulary(self._vocab)

    def general(self) -> Split[CaptionedImage]:
        """Captioned images to calibrate on."""
        return self._general

    def regions(self) -> Split[RegionImage]:
        """Captioned regions to calibrate on; ValueError if none were given."""
        return self._regions

    def texts(self, n: int) -> list[str]:
        """The first `n` texts; ValueError if no shard was given."""
        if "text" not in self.files:
            raise ValueError("data.source.text is not given; give a shard of C4, or take text out of calibration.parts")
        return read_texts(self.files["text"], n)

    @cached_property
    def _general(self) -> Split[CaptionedImage]:
        option = "data.source.general_format"
        images, form = self._images["general"], self._formats["general"]
        return formats.captions(self.files["general"], images, form, "train", option, upright=self.upright)

    @cached_property
    def _regions(self) -> Split[RegionImage]:
        if "regions" not in self.files:
            raise ValueError("data.source.regions is not given; give it, or set data.calibration.parts=[general]")
        option = "data.source.regions_format"
        images, form = self._images["regions"], self._formats["regions"]
        return formats.regions(self.files["regions"], images, form, option, upright=self.upright)

    def fingerprint(self, *splits: str) -> str:
        """Hash of the bytes of the annotation files (of names and sizes, where a split is a folder); of no image."""
        total = self._shown()
        for name in splits:
            for part in contents(self.files[name]):
                total.update(part)
        return total.hexdigest()[:16]

    def _shown(self) -> Any:
        """The hash of how images are opened, and of the vocabulary, to be gone on with."""
        total = hashlib.sha256(f"images 2, upright={self.upright}".encode())  # 2: on white, 16 bits scaled
        if isinstance(self.vocabulary, Path):
            total.update(contents(self.vocabulary)[0])
        return total


class Calibrated(TypedDict, total=False):
    """The arguments of `FilesCalibration`, for the data sets that hand them on."""

    general: Required[str]
    vocab: str | None
    general_images: str
    general_format: str
    regions: str | None
    regions_images: str
    regions_format: str
    text: str | None
    orientation: str


class FilesRetrieval(FilesCalibration):
    """Images with captions, for retrieval and captioning.

    Args:
        train, val, test: caption files; one may serve all three (Karpathy's).
        images: the folder their paths start from; of several folders the first that has an image counts.
        format: salesforce, karpathy, coco, nocaps, files, webdataset or parquet.
        calibration: see `FilesCalibration`.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str,
        test: str,
        images: str | Sequence[str],
        format: str = "salesforce",
        **calibration: Unpack[Calibrated],
    ) -> None:
        super().__init__(**calibration)
        formats.check(format, (*formats.CAPTIONS, *formats.HOLDING_IMAGES), "data.source.format")
        self.files = {"train": Path(train), "val": Path(val), "test": Path(test)} | self.files
        self.captions: Callable[[str], Split[CaptionedImage]] = cache(self._captions)
        self.images, self.format = images, format

    def _captions(self, split: str) -> Split[CaptionedImage]:
        """ "train", "val" or "test"."""
        checked = one_of(split, SPLITS)
        file, option = self.files[checked], "data.source.format"
        return formats.captions(file, self.images, self.format, checked, option, upright=self.upright)


class FilesQuestions(FilesCalibration):
    """Questions about images.

    Args:
        train, val, test: question files; several may make one split (VQAv2 with Visual Genome), one may be left out.
        images: the folder their paths start from; of several folders the first that has an image counts.
        format: salesforce, vqav2 (OK-VQA's too), gqa or visual_genome.
        answer_list: JSON list of the answers that are ranked; without it, those that are the first choice of at least
            `least` training questions.
        least: see `answer_list`; VQAv2's list takes nine.
        calibration: see `FilesCalibration`.
    """

    def __init__(
        self,
        *,
        train: str | Sequence[str],
        val: str | Sequence[str],
        images: str | Sequence[str],
        test: str | Sequence[str] = (),
        format: str = "salesforce",
        answer_list: str | None = None,
        least: int = 9,
        **calibration: Unpack[Calibrated],
    ) -> None:
        super().__init__(**calibration)
        formats.check(format, formats.QUESTIONS, "data.source.format")
        given = {"train": _listed(train), "val": _listed(val), "test": _listed(test)}
        self.splits = {name: files for name, files in given.items() if files}
        self.images, self.format, self.answer_list, self.least = images, format, answer_list, least
        if least < 1:
            raise ValueError(f"data.source.least must be at least 1, got {least}")
        self.questions: Callable[[str], Split[Question]] = cache(self._questions)

    def answers(self) -> Sequence[str]:
        """The answers that are ranked, each once."""
        from vlp_bench.data.datasets.questions import most_frequent

        if self.answer_list is None:
            return most_frequent(self.questions("train").records, least=self.least)
        path = Path(self.answer_list)
        found = checked.answers({"answers": checked.objects(path, checked.load(path))}, "answers")
        return list(dict.fromkeys(found))

    def _questions(self, split: str) -> Split[Question]:
        """The questions of "train", "val" or "test", file after file."""
        files = self.splits[one_of(split, tuple(self.splits))]
        option = "data.source.format"
        read = [formats.questions(f, self.images, self.format, option, upright=self.upright) for f in files]
        return Split([q for part in read for q in part.records], read[0].images)

    def fingerprint(self, *splits: str) -> str:
        """Hash of the bytes of the files of the named splits."""
        total = self._shown()
        for name in splits:
            for file in self.splits.get(name, [self.files[name]] if name in self.files else []):
                for part in contents(file):
                    total.update(part)
        return total.hexdigest()[:16]


class FilesPairs(FilesCalibration):
    """Pairs of images with a sentence (NLVR2).

    Args:
        train, val, test: pair files.
        images: the folder their paths start from.
        format: salesforce or nlvr2.
        calibration: see `FilesCalibration`.
    """

    def __init__(
        self,
        *,
        train: str,
        val: str,
        test: str,
        images: str,
        format: str = "salesforce",
        **calibration: Unpack[Calibrated],
    ) -> None:
        super().__init__(**calibration)
        formats.check(format, formats.PAIRS, "data.source.format")
        self.files = {"train": Path(train), "val": Path(val), "test": Path(test)} | self.files
        self.images, self.format = images, format
        self.pairs: Callable[[str], Split[ImagePair]] = cache(self._pairs)

    def _pairs(self, split: str) -> Split[ImagePair]:
        """ "train", "val" or "test"."""
        file = self.files[one_of(split, SPLITS)]
        return formats.pairs(file, self.images, self.format, "data.source.format", upright=self.upright)


def contents(path: Path) -> list[bytes]:
    """What a fingerprint is made of: the hash of a file; names and sizes of what lies in a folder."""
    try:
        if path.is_dir():
            listed = sorted(p for p in path.rglob("*") if p.is_file())
            return [f"{p.relative_to(path).as_posix()} {p.stat().st_size}\n".encode() for p in listed]
        with open(path, "rb") as file:
            return [hashlib.file_digest(file, "sha256").digest()]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def _listed(files: str | Sequence[str]) -> list[Path]:
    return [Path(file) for file in ([files] if isinstance(files, str) else files)]


def one_of(split: str, allowed: Sequence[str]) -> str:
    """`split` if it is allowed, else ValueError."""
    if split not in allowed:
        raise ValueError(f"a split of this data set is one of {', '.join(allowed)}, got {split!r}")
    return split
