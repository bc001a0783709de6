"""Is a data set fit to train on? Everything its annotations say, a sample or all of its images, overlap of splits."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from vlp_bench.data.readers import checked
from vlp_bench.data.readers.formats import Split
from vlp_bench.data.readers.repeated import listed
from vlp_bench.data.readers.split_names import NAMES, is_of, words
from vlp_bench.data.records import CaptionedImage, ImagePair, LabelledImage, Question, RegionImage, said_in
from vlp_bench.data.text import Tokenizer, unknown_words
from vlp_bench.data.transforms.decoding import KINDS as IMAGE_KINDS
from vlp_bench.data.transforms.decoding import BrokenImage, Folder
from vlp_bench.spelling import count_of

SPLITS = ("train", "val", "test")
KINDS = ("questions", "pairs", "labelled", "captions")
"""What a source may call the records of a task, most special first."""
CALIBRATION = ("general", "regions")
MOST_LOOKED_FOR = 20
"""Records whose images are looked for before it is said that their folder is missing."""
MOST_COMPARED = 200
"""Pairs of images of equal names in two splits whose pixels are compared."""
MOST_UNKNOWN = 0.2
"""Share of a split's words that its vocabulary may lack, as `data.max_unknown` has it."""

Advance = Callable[[], None]


@dataclass
class Report:
    """What was found in one split.

    `counts`: what there is of what. `problems` must be mended; `notes` need not. `images`: key -> hash of its pixels,
    "" where it was not opened. `source`: what opens them.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    source: Any = None

    def place(self, key: str) -> str:
        """Where an image lies: two splits that give the same place show the same image."""
        if isinstance(self.source, Folder):
            return str(self.source.path(key))
        return f"{getattr(self.source, 'root', getattr(self.source, 'path', ''))}/{key}"

    def pixels(self, key: str) -> str:
        """The hash of an image's pixels, opened now if it was not; "" if it cannot be."""
        if not self.images[key] and self.source is not None:
            try:
                self.images[key] = _hashed(self.source.open(key))
            except ValueError:
                return ""
        return self.images[key]


def splits_of(source: object) -> dict[str, Callable[[], Split[Any]]]:
    """Name -> split, of everything a source can read; reading is left to the caller."""
    kind = next((kind for kind in KINDS if hasattr(source, kind)), None)
    there = getattr(source, "splits", SPLITS) if kind is not None else ()
    found = {name: (lambda name=name: getattr(source, str(kind))(name)) for name in SPLITS if name in there}
    given = getattr(source, "files", CALIBRATION)
    return found | {name: getattr(source, name) for name in CALIBRATION if hasattr(source, name) and name in given}


def splits_read(data: Any) -> dict[str, Callable[[], Split[Any]]]:
    """Name -> split, of what a task's data read; the test split may be another source's."""
    tested = splits_of(getattr(data, "tested", None))
    return splits_of(getattr(data, "source", None)) | {name: read for name, read in tested.items() if name == "test"}


def stamps(data: Any) -> tuple[str, str]:
    """Hashes of the sizes, and of the times of change, of all image files that train, val and test name.

    None is opened. Those in shards and tables are told by `fingerprint`, as are those of formats that list a folder.
    """
    sizes, times = hashlib.sha256(), hashlib.sha256()
    for name, read in splits_read(data).items():
        split = read()
        if name in CALIBRATION or not isinstance(split.images, Folder):
            continue
        for key in dict.fromkeys(key for record in split.records for key in keys(record)):
            with suppress(OSError):  # one that is not there may be replaced
                found = split.images.path(key).stat()
                sizes.update(f"{name} {key} {found.st_size}\n".encode())
                times.update(f"{name} {key} {found.st_mtime_ns}\n".encode())
    return sizes.hexdigest()[:16], times.hexdigest()[:16]


def check(name: str, read: Callable[[], Split[Any]]) -> tuple[Report, Split[Any] | None]:
    """Read a split and look at its records, bad ones all in one go; the split is None if it cannot be read."""
    report = Report(name)
    with _heard(report.notes), checked.collecting() as faults:
        try:
            split = read()
        except ValueError as error:
            apart = not faults or isinstance(error, checked.Together)
            report.problems += [*listed("records are wrong", faults), *([str(error)] if apart else [])]
            return report, None
    report.problems += listed("records are wrong", faults)
    report.notes = list(dict.fromkeys(report.notes))  # a file whose kind is found out is read more than once
    report.counts = dict(_counts(split.records))
    report.images = dict.fromkeys((key for record in split.records for key in keys(record)), "")
    report.source = split.images
    report.counts["images"] = len(report.images)
    if name not in CALIBRATION:
        report.notes += shared_captions(split.records)
    return report, split


def absent(split: Split[Any]) -> str:
    """What is said of a split of whose first images none is in its folder; "" where one is."""
    names = [key for record in split.records[:MOST_LOOKED_FOR] for key in keys(record)]
    if not names or not isinstance(split.images, Folder) or any(split.images.path(key).exists() for key in names):
        return ""
    return f"names images such as {names[0]}, which is not in {split.images.root}"


def missing(split: Split[Any]) -> list[str]:
    """The images of a split that are not in its folder; none where it lies in no folder."""
    if not isinstance(split.images, Folder):
        return []
    return split.images.lacking(dict.fromkeys(key for record in split.records for key in keys(record)))


def lacks(split: Split[Any], most: int = 0) -> str:
    """What is said of a split with more than `most` images that are not there; "" of another."""
    lost = missing(split)
    if len(lost) <= most:
        return ""
    images = len({key for record in split.records for key in keys(record)})
    root = getattr(split.images, "root", "")
    return f"names images that are not in {root}, {len(lost):,} of {images:,}: {checked.some(lost)}"


def shared_captions(records: Sequence[Any]) -> list[str]:
    """A line on captions that several images have, if any: in retrieval only one's own image counts as right."""
    told = Counter(text for r in records if isinstance(r, CaptionedImage) for text in dict.fromkeys(r.captions))
    several = [text for text, images in told.items() if images > 1]
    if not several:
        return []
    shown = f"{len(several):,} of {len(told):,} captions are of several images, e.g. {several[0]!r}"
    return [f"{shown}: in retrieval only the image they stand with is right, which no model can tell"]


def read_words(report: Report, split: Split[Any], tokenizer: Tokenizer) -> None:
    """Count the words of a split that a vocabulary lacks: a problem where they are many."""
    if texts := said_in(split.records):
        found = unknown_words(texts, tokenizer)
        if found.share > MOST_UNKNOWN:
            report.problems.append(
                f"{found}; a run stops above data.max_unknown={MOST_UNKNOWN:g}: is it their vocabulary?"
            )
        elif found.unknown:
            report.notes.append(str(found))


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


def chosen(report: Report, most: int | None, seed: int = 0) -> list[str]:
    """The images to open: all, or `most` of them drawn by seed."""
    images = list(report.images)
    if most is None or most >= len(images):
        return images
    return [images[i] for i in sorted(np.random.default_rng(seed).choice(len(images), most, replace=False))]


def look(report: Report, split: Split[Any], images: Sequence[str], advance: Advance = lambda: None) -> None:
    """Open images of a split; problems are those broken and all that are not there, notes sizes unlike the boxes'."""
    frames = {record.image: record.size for record in split.records if isinstance(record, RegionImage)}
    broken: list[str] = []
    strange: list[str] = []
    kinds: Counter[str] = Counter()
    looked_at = list(dict.fromkeys([*images, *missing(split)]))
    for key in looked_at:
        try:
            image = split.images.open(key)
            report.images[key] = _hashed(image)
            kinds.update(image.info.get(IMAGE_KINDS, ()))
            if key in frames and image.size != frames[key]:
                strange.append(f"{key}: {image.size[0]} x {image.size[1]}, boxes are measured in {frames[key]}")
        except ValueError as error:
            broken.append(str(error) if isinstance(error, BrokenImage) else f"{key}: {error}")
        advance()
    report.counts["opened"] = len(looked_at)
    report.counts["broken"] = len(broken)
    report.problems += listed("images are missing or broken", broken)
    report.notes += [f"{count_of(n, 'image')} {'is' if n == 1 else 'are'} {kind}" for kind, n in sorted(kinds.items())]
    report.notes += listed("images have another size than the record says; boxes are scaled", strange)


def _hashed(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]


def leaks(reports: Mapping[str, Report]) -> tuple[list[str], list[str]]:
    """Problems and notes: images that two of train, val and test share, by place or by their pixels.

    Equal names are only looked into: the images are opened, and count if their pixels are equal. Two splits that are
    the same set (a test set used for validation as well) are a note.
    """
    problems: list[str] = []
    notes: list[str] = []
    for first, second in _beside(reports):
        if set(map(first.place, first.images)) == set(map(second.place, second.images)):
            notes.append(f"{first.name} and {second.name} show the same {count_of(len(first.images), 'image')}")
            continue
        found = sorted(_shared(first, second))
        problems += listed(f"images of {first.name} are in {second.name} too", found)
    return problems, notes


def _beside(reports: Mapping[str, Report]) -> Iterator[tuple[Report, Report]]:
    """Pairs of splits of one set: reports or files whose names differ in train, val and test alone."""
    sets: dict[tuple[str, ...], dict[str, Report]] = {}
    for name, report in reports.items():
        named = words(PurePosixPath(name).stem)
        split = next((split for split in SPLITS if is_of(PurePosixPath(name).stem, split)), None)
        if split is not None and report.images:
            sets.setdefault(tuple(word for word in named if word not in NAMES[split]), {})[split] = report
    for found in sets.values():
        yield from combinations((found[split] for split in SPLITS if split in found), 2)


def _shared(first: Report, second: Report) -> Iterator[str]:
    places = {second.place(key): key for key in second.images}
    names = {_name(key): key for key in second.images}
    apart = [key for key in first.images if _name(key) in names and first.place(key) not in places]
    same = {key: key if key in second.images else names[_name(key)] for key in apart}
    equal = {key for key, other in islice(same.items(), MOST_COMPARED) if _equal(first, key, second, other)}
    pixels = {shown: key for key, shown in second.images.items() if shown}
    for key, shown in first.images.items():
        if first.place(key) in places:
            yield key
        elif key in equal:
            yield f"{key} = {same[key]} (the same name and pixels)"
        elif shown in pixels:
            yield f"{key} = {pixels[shown]} (the same pixels)"


def _equal(first: Report, key: str, second: Report, other: str) -> bool:
    shown = first.pixels(key)
    return bool(shown) and shown == second.pixels(other)


def _name(key: str) -> str:
    return PurePosixPath(key).name


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
