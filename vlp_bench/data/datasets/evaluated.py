"""What a model is evaluated on as it is: the test split of a folder, read for one kind of task."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vlp_bench.data import checking
from vlp_bench.data.datasets.own import check_root, found, placed
from vlp_bench.data.items import ImageSource
from vlp_bench.data.readers import checked, formats
from vlp_bench.data.readers.classes import read_folders
from vlp_bench.data.readers.coco import answers_beside
from vlp_bench.data.readers.corpus import CORPORA, corpus_file, read_corpus, read_mmlu
from vlp_bench.data.readers.image_files import folders_in
from vlp_bench.data.readers.split_names import NAMES, split_folders
from vlp_bench.data.records import LabelledImages, MultipleChoice
from vlp_bench.data.transforms.decoding import Folder
from vlp_bench.spelling import did_you_mean

CAPTIONS, QUESTIONS, CLASSES, CORPUS, EXAM = "captions", "questions", "classes", "corpus", "exam"
DEV = "dev"
"""MMLU's split of examples."""


@dataclass(frozen=True)
class Classes:
    """Images in a folder for every class; `names`: what the classes are called, `folders`: the names of theirs."""

    labelled: LabelledImages
    folders: tuple[str, ...]
    images: ImageSource

    @property
    def records(self) -> Sequence[Any]:
        return self.labelled.records


@dataclass(frozen=True)
class Corpus:
    """One long text."""

    text: str

    @property
    def records(self) -> Sequence[str]:
        return (self.text,)


@dataclass(frozen=True)
class Exam:
    """Questions with four choices, and those of each subject that are answered before them."""

    records: Sequence[MultipleChoice]
    examples: Sequence[MultipleChoice]


Data = formats.Split[Any] | Classes | Corpus | Exam


def _evenly(records: Sequence[Any], limit: int) -> list[Any]:
    """At most so many, at equal distances: files list one class or subject after the other."""
    count = min(limit, len(records))
    return [records[place * len(records) // count] for place in range(count)]


@dataclass(frozen=True)
class Place:
    """Where the data lie and how they are read.

    Args:
        root: their folder.
        format: one that the kind of data has, see `FORMATS`.
        test: the file (of classes and exams: the folder) of the split, where it can't be told by its name; as it is
            typed, or below the root.
        images: the folder that an annotation file's paths start from; else `images` below the root, or the root.
        split: which split is taken.
        names: of class folders, a file that says what they are called (`n01440764 tench` a line).
        limit: so many of the records are taken, of all classes and subjects alike, of others the first; 0: all.
    """

    root: str
    format: str
    test: str = ""
    images: str = ""
    split: str = "test"
    names: str = ""
    limit: int = 0

    def read(self, kind: str) -> Data:
        """The data.

        Raises:
            ValueError: another format, or files that are not there or wrong.
        """
        formats.check(self.format, FORMATS[kind], "data.format")
        self._check(kind)
        check_root(Path(self.root), ("test",))
        if kind in (CAPTIONS, QUESTIONS) and self.split not in NAMES:
            raise ValueError(f"data.split={self.split}: use one of {', '.join(NAMES)}{did_you_mean(self.split, NAMES)}")
        read = self._cut(_READERS[kind](self))
        if isinstance(read, formats.Split) and (said := checking.lacks(read)):
            raise ValueError(f"the annotation file {said}; fetch them, or leave their records out")
        return read

    def _check(self, kind: str) -> None:
        """ValueError for a number of records that is none, or a key that would not be heeded."""
        if self.limit < 0:
            raise ValueError(f"data.limit={self.limit}: expected a number of records, or 0 for all")
        unheeded = UNHEEDED[kind] | ({"images"} if self.format in formats.HOLDING_IMAGES else set())
        for key in (key for key in sorted(unheeded) if getattr(self, key)):
            others = [f"data.{one.name}" for one in fields(self) if one.name not in unheeded]
            raise ValueError(
                f"data.{key}={getattr(self, key)}: this means nothing for {kind} in the format {self.format}: "
                f"leave it out; the keys are {', '.join(others)}"
            )

    def _cut(self, data: Data) -> Data:
        if not self.limit:
            return data
        if isinstance(data, Classes):
            return replace(data, labelled=replace(data.labelled, records=tuple(_evenly(data.records, self.limit))))
        if isinstance(data, Exam):
            return replace(data, records=_evenly(data.records, self.limit))
        return replace(data, records=data.records[: self.limit])

    @property
    def pictures(self) -> str:
        below = Path(self.root) / "images"
        return self.images or str(below if below.is_dir() else self.root)

    @property
    def named(self) -> Path:
        """What `test` names. ValueError where there is nothing of the name."""
        return placed(Path(self.root), self.test, "data.test")

    @property
    def file(self) -> Path:
        """The annotations of the split. ValueError where they are not found; says which key names them."""
        if self.test:
            return self.named
        try:
            return found(Path(self.root), self.format, self.split)
        except ValueError as error:  # there is one key for the file, whatever the split
            raise ValueError(re.sub(r"data\.\w+=F", "data.test=F", str(error))) from None


def _captions(place: Place) -> Data:
    return _there(formats.captions(place.file, place.pictures, place.format, place.split, "data.format"))


def _questions(place: Place) -> Data:
    read = _there(formats.questions(place.file, place.pictures, place.format, "data.format"))
    if silent := [question for question in read.records if not question.answers]:
        beside = f" (they are read from {answers_beside(place.file).name} beside it)" if place.format == "vqav2" else ""
        raise ValueError(
            f"{place.file} has {len(silent)} of {len(read.records)} questions without answers{beside}, the first is "
            f"question_id {silent[0].question_id}: give a split with answers"
        )
    return read


def _there(split: formats.Split[Any]) -> formats.Split[Any]:
    if said := checking.absent(split):
        raise ValueError(f"the annotation file {said}; give the folder its paths start from with data.images=FOLDER")
    return split


def _classes(place: Place) -> Data:
    """Of `<split>/<class>/<image>`, or of `<class>/<image>` where there is no folder of a split."""
    root = Path(place.root)
    folder = place.named if place.test else _split_folder(root, place.split)
    read = read_folders(folder, place.names or None)
    folders = tuple(one.name for one in folders_in(folder))
    return Classes(read, folders, Folder(folder))


def _split_folder(root: Path, split: str) -> Path:
    """The folder of a split, of validation where there is none of the test; `root` where there is none of any.

    Raises:
        ValueError: another split has one, or this one has several.
    """
    of_splits = {name: split_folders(root, name) for name in (*NAMES, split)}
    fitting = of_splits[split] or (of_splits["val"] if split == "test" else [])
    if len(fitting) == 1:
        return fitting[0]
    if fitting or split != "test" or any(of_splits.values()):
        has = checked.some(one.name for one in folders_in(root))
        raise ValueError(
            f"data.split={split}: which folder of {root} is it? It has {has}; name it with data.test=FOLDER"
        )
    return root


def _corpus(place: Place) -> Data:
    file = place.named if place.test else corpus_file(Path(place.root), place.split)
    return Corpus(read_corpus(file, place.format))


def _exam(place: Place) -> Data:
    return Exam(read_mmlu(place.root, place.test or place.split), read_mmlu(place.root, DEV))


_READERS: Mapping[str, Callable[[Place], Data]] = {
    CAPTIONS: _captions, QUESTIONS: _questions, CLASSES: _classes, CORPUS: _corpus, EXAM: _exam,
}  # fmt: skip
FORMATS: Mapping[str, Sequence[str]] = {
    CAPTIONS: (*formats.CAPTIONS, *formats.HOLDING_IMAGES),
    QUESTIONS: tuple(formats.QUESTIONS),
    CLASSES: ("imagefolder",),
    CORPUS: tuple(CORPORA),
    EXAM: ("mmlu",),
}
"""Kind of data -> its formats."""
UNHEEDED: Mapping[str, set[str]] = {
    CAPTIONS: {"names"}, QUESTIONS: {"names"}, CLASSES: {"images"}, CORPUS: {"images", "names", "limit"},
    EXAM: {"images", "names"},
}  # fmt: skip
"""Kind of data -> keys of a `Place` that mean nothing there."""


def fingerprint(data: Data) -> str:
    """First 16 hex digits of a hash of all that the annotations say; images are not read."""
    told = hashlib.sha256()
    for own in (data.records, getattr(data, "examples", ()), getattr(data, "folders", ())):
        told.update(repr(tuple(own)).encode())
    return told.hexdigest()[:16]
