"""Is a data set fit to train on? Everything its annotations say, a sample or all of its images, overlap of splits."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vlp_bench.data.readers.formats import Split
from vlp_bench.data.records import CaptionedImage, ImagePair, LabelledImage, Question, RegionImage
from vlp_bench.data.transforms.decoding import BrokenImage

SPLITS = ("train", "val", "test")
KINDS = ("questions", "pairs", "labelled", "captions")
"""What a source may call the records of a task, most special first."""
CALIBRATION = ("general", "regions")
MOST_NAMED = 8
"""Problems of one kind that are listed by name."""

Advance = Callable[[], None]


@dataclass
class Report:
    """What was found in one split.

    `counts`: what there is of what. `problems` must be mended; `notes` need not. `images`: key -> hash of its pixels,
    "" where it was not opened.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)


def splits_of(source: object) -> dict[str, Callable[[], Split[Any]]]:
    """Name -> split, of everything a source can read; reading is left to the caller."""
    kind = next((kind for kind in KINDS if hasattr(source, kind)), None)
    there = getattr(source, "splits", SPLITS) if kind is not None else ()
    found = {name: (lambda name=name: getattr(source, str(kind))(name)) for name in SPLITS if name in there}
    given = getattr(source, "files", CALIBRATION)
    return found | {name: getattr(source, name) for name in CALIBRATION if hasattr(source, name) and name in given}


def check(name: str, read: Callable[[], Split[Any]]) -> tuple[Report, Split[Any] | None]:
    """Read a split and look at its records; the split is None if it cannot be read."""
    report = Report(name)
    with _heard(report.notes):
        try:
            split = read()
        except ValueError as error:
            report.problems.append(str(error))
            return report, None
    report.counts = dict(_counts(split.records))
    report.images = dict.fromkeys((key for record in split.records for key in keys(record)), "")
    report.counts["images"] = len(report.images)
    for problem in _repeated(split.records):
        report.notes.append(problem)
    return report, split


def keys(record: Any) -> tuple[str, ...]:
    """The images of a record."""
    return record.images if isinstance(record, ImagePair) else (record.image,)


def _counts(records: Sequence[Any]) -> Counter[str]:
    total: Counter[str] = Counter(records=len(records))
    for record in records:
        if isinstance(record, CaptionedImage):
            total["captions"] += len(record.captions)
        elif isinstance(record, RegionImage):
            total["regions"] += len(record.regions)
        elif isinstance(record, Question):
            total["answers"] += len(record.answers)
    if records and isinstance(records[0], LabelledImage):
        total["classes"] = len({record.label for record in records})
    return total


def _repeated(records: Sequence[Any]) -> Iterator[str]:
    """What is said twice."""
    images = Counter(r.image for r in records if isinstance(r, CaptionedImage | RegionImage | LabelledImage))
    yield from _listed("images are in more than one record", [image for image, n in images.items() if n > 1])
    captions = [(r.image, Counter(r.captions)) for r in records if isinstance(r, CaptionedImage)]
    twice = [f"{image}: {c!r}" for image, counted in captions for c, n in counted.items() if n > 1]
    yield from _listed("captions are given twice to the same image", twice)
    asked = Counter((r.image, r.question) for r in records if isinstance(r, Question))
    yield from _listed(
        "questions are asked twice of the same image", [f"{i}: {q!r}" for (i, q), n in asked.items() if n > 1]
    )


def chosen(report: Report, most: int | None, seed: int = 0) -> list[str]:
    """The images to open: all, or `most` of them drawn by seed."""
    images = list(report.images)
    if most is None or most >= len(images):
        return images
    return [images[i] for i in sorted(np.random.default_rng(seed).choice(len(images), most, replace=False))]


def look(report: Report, split: Split[Any], images: Sequence[str], advance: Advance = lambda: None) -> None:
    """Open images of a split; problems are those missing or broken, and those whose size the boxes do not fit."""
    frames = {record.image: record.size for record in split.records if isinstance(record, RegionImage)}
    broken: list[str] = []
    strange: list[str] = []
    for key in images:
        try:
            image = split.images.open(key)
            report.images[key] = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()[:16]
            if key in frames and image.size != frames[key]:
                strange.append(f"{key}: {image.size[0]} x {image.size[1]}, boxes are measured in {frames[key]}")
        except ValueError as error:
            broken.append(str(error) if isinstance(error, BrokenImage) else f"{key}: {error}")
        advance()
    report.counts["opened"] = len(images)
    report.counts["broken"] = len(broken)
    report.problems += _listed("images are missing or broken", broken)
    report.notes += _listed("images have another size than their record says; boxes are scaled", strange)


def leaks(reports: Mapping[str, Report]) -> tuple[list[str], list[str]]:
    """Problems and notes: images that two of train, val and test share, by path, by name and by their pixels.

    Two splits that are the same set (a test set used for validation as well) are a note.
    """
    problems: list[str] = []
    notes: list[str] = []
    there = [reports[name] for name in SPLITS if name in reports and reports[name].images]
    for i, first in enumerate(there):
        for second in there[i + 1 :]:
            if first.images.keys() == second.images.keys():
                notes.append(f"{first.name} and {second.name} show the same {len(first.images)} images")
                continue
            found = sorted(_shared(first.images, second.images))
            problems += _listed(f"images of {first.name} are in {second.name} too", found)
    return problems, notes


def _shared(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[str]:
    pixels = {shown: key for key, shown in second.items() if shown}
    names = {_name(key): key for key in second}
    for key, shown in first.items():
        if key in second:
            yield key
        elif _name(key) in names:
            yield f"{key} = {names[_name(key)]} (the same name)"
        elif shown in pixels:
            yield f"{key} = {pixels[shown]} (the same pixels)"


def _name(key: str) -> str:
    """The name of an image if it is long enough to tell it from any other; else its whole key."""
    name = PurePosixPath(key).name
    return name if len(name) >= 16 else key


def _listed(what: str, found: Sequence[str]) -> list[str]:
    """One line that says how many and which."""
    if not found:
        return []
    shown = "; ".join(found[:MOST_NAMED])
    return [f"{len(found)} {what}: {shown}{'; ...' if len(found) > MOST_NAMED else ''}"]


@contextmanager
def _heard(notes: list[str]) -> Iterator[None]:
    """Note what readers warn of: records they leave out."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    logger, handler = logging.getLogger("vlp_bench.data"), Notes(logging.WARNING)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
