"""One word picks the reader of a file; if it is the wrong word, the error says which would be right.

What is read is looked at for what stands twice: it is said once, by the log.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from vlp_bench.data.items import ImageSource
from vlp_bench.data.readers import checked
from vlp_bench.data.readers.annotations import (
    Size,
    read_captions,
    read_grouped,
    read_pairs,
    read_questions,
    read_regions,
)
from vlp_bench.data.readers.classes import read_folders
from vlp_bench.data.readers.coco import read_coco, read_karpathy, read_nocaps, read_vqa
from vlp_bench.data.readers.genome import read_gqa, read_nlvr2, read_question_answers, read_region_descriptions
from vlp_bench.data.readers.image_files import folders_in, is_image
from vlp_bench.data.readers.repeated import repeated
from vlp_bench.data.readers.shards import Parquet, Shards, read_triplets
from vlp_bench.data.records import CaptionedImage, ImagePair, LabelledImage, Question, RegionImage
from vlp_bench.data.transforms.decoding import Folder

R = TypeVar("R", covariant=True)
_log = logging.getLogger(__name__)
Images = str | Path | Sequence[str]
"""An image folder, or several."""
T = TypeVar("T")
FOLDERS = ("train2014", "val2014", "test2015", "train2017", "val2017", "test2017", "VG_100K", "VG_100K_2")
"""Where images that are not at their path are looked for."""


@dataclass(frozen=True)
class Split(Generic[R]):
    """Records and what opens their images."""

    records: Sequence[R]
    images: ImageSource


CAPTIONS: Mapping[str, Callable[[Path, str], list[CaptionedImage]]] = {
    "salesforce": lambda path, split: read_captions(path),
    "karpathy": read_karpathy,
    "coco": lambda path, split: read_coco(path),
    "nocaps": lambda path, split: read_nocaps(path),
    "files": lambda path, split: read_triplets(path),
}
ENDINGS: Mapping[str, Sequence[str]] = {"salesforce": checked.LISTS, "nlvr2": (".json", ".jsonl")}
"""What annotation files of a format may end with; those of the others are .json."""
HOLDING_IMAGES = ("webdataset", "parquet")
"""Formats of captions whose files hold the images too."""
QUESTIONS: Mapping[str, Callable[[Path], list[Question]]] = {
    "salesforce": read_questions,
    "vqav2": read_vqa,
    "gqa": read_gqa,
    "visual_genome": read_question_answers,
}
REGIONS: Mapping[str, Callable[[Path, Size], list[RegionImage]]] = {
    "salesforce": read_regions,
    "grouped": read_grouped,
    "visual_genome": read_region_descriptions,
}
PAIRS: Mapping[str, Callable[[Path], list[ImagePair]]] = {"salesforce": read_pairs, "nlvr2": read_nlvr2}

TITLES = {
    "salesforce": "the lists of X-VLM, BLIP and MULTIFLOW",
    "karpathy": "Karpathy's format",
    "coco": "COCO's caption format",
    "nocaps": "NoCaps' official format",
    "files": "a folder of img2dataset's files",
    "webdataset": "a folder of webdataset shards",
    "parquet": "a parquet table",
    "vqav2": "VQAv2's and OK-VQA's official format",
    "gqa": "GQA's official format",
    "visual_genome": "Visual Genome's original format",
    "grouped": "regions grouped by image",
    "nlvr2": "NLVR2's official format",
    "coop": "CoOp's split format",
    "imagefolder": "a folder for every class",
}


def captions(
    path: str | Path,
    images: Images,
    form: str = "salesforce",
    split: str = "train",
    option: str = "format",
    *,
    upright: bool = True,
) -> Split[CaptionedImage]:
    """Captioned images of one split and what opens them.

    Args:
        path: the annotation file; the folder of shards, tables or files.
        images: the folder its paths start from, or several to look in; not looked at by formats that hold their images.
        form: a key of CAPTIONS, "webdataset" or "parquet".
        split: of formats that keep all splits in one file.
        option: the configuration key of `form`, for the error.
        upright: whether EXIF's orientation is obeyed.

    Raises:
        ValueError: an unknown form, a file of another form (named), or what the reader says.
    """
    path = Path(path)
    allowed = (*CAPTIONS, *HOLDING_IMAGES)
    check(form, allowed, option)
    if form == "webdataset":
        shards = _named(lambda: Shards(path, upright=upright), path, form, allowed, option)
        return Split(_told(path, _named(shards.captions, path, form, allowed, option)), shards)
    if form == "parquet":
        table = _named(lambda: Parquet(path, split, upright=upright), path, form, allowed, option)
        return Split(_told(path, _named(table.captions, path, form, allowed, option)), table)
    records = _named(lambda: CAPTIONS[form](path, split), path, form, allowed, option)
    return Split(_told(path, records), _folder(str(path) if form == "files" else images, upright))


def questions(
    path: str | Path, images: Images, form: str = "salesforce", option: str = "format", *, upright: bool = True
) -> Split[Question]:
    """Questions and what opens their images; arguments and errors as for `captions`, forms are keys of QUESTIONS."""
    check(form, QUESTIONS, option)
    records = _named(lambda: QUESTIONS[form](Path(path)), Path(path), form, QUESTIONS, option)
    return Split(_told(Path(path), records), _folder(images, upright))


def regions(
    path: str | Path, images: Images, form: str = "salesforce", option: str = "format", *, upright: bool = True
) -> Split[RegionImage]:
    """Captioned regions and what opens their images; as `captions`, forms are keys of REGIONS."""
    check(form, REGIONS, option)
    folder = _folder(images, upright)
    records = _named(lambda: REGIONS[form](Path(path), folder.size), Path(path), form, REGIONS, option)
    return Split(_told(Path(path), records), folder)


def pairs(
    path: str | Path, images: Images, form: str = "salesforce", option: str = "format", *, upright: bool = True
) -> Split[ImagePair]:
    """Pairs of images with a sentence, and what opens them; as `captions`, forms are keys of PAIRS."""
    check(form, PAIRS, option)
    records = _named(lambda: PAIRS[form](Path(path)), Path(path), form, PAIRS, option)
    return Split(_told(Path(path), records), _folder(images, upright))


def labelled(
    path: str | Path, images: Images = "", form: str = "imagefolder", option: str = "format", *, upright: bool = True
) -> Split[LabelledImage]:
    """A folder of `<class>/<image>` and what opens its images."""
    check(form, ("imagefolder",), option)
    return Split(_told(Path(path), read_folders(path).records), Folder(path, upright=upright))


def _told(path: Path, records: Sequence[T]) -> Sequence[T]:
    """The records; what stands twice among them is logged."""
    for line in repeated(records):
        _log.warning("%s: %s", path, line)
    return records


def _folder(images: Images, upright: bool) -> Folder:
    first, *others = [images] if isinstance(images, str | Path) else images
    return Folder(
        first,
        (*FOLDERS, *(str(Path(other) / folder) for other in others for folder in (".", *FOLDERS))),
        upright=upright,
    )


KINDS: Mapping[str, tuple[Collection[str], Callable[..., Split[Any]]]] = {
    "regions": (REGIONS, regions),
    "questions": (QUESTIONS, questions),
    "pairs": (PAIRS, pairs),
    "captions": ((*CAPTIONS, *HOLDING_IMAGES), captions),
    "labelled": (("imagefolder",), labelled),
}
"""Kind of data -> its formats and what reads them, the most special first."""
READ = tuple(dict.fromkeys(name for allowed, _ in KINDS.values() for name in allowed))


def check(form: str, allowed: Mapping[str, Any] | Sequence[str], option: str) -> None:
    """ValueError if `form` is not among the allowed ones."""
    if form not in allowed:
        raise ValueError(f"{option}={form}: there is no such format here; allowed: {', '.join(allowed)}")


def _named(read: Callable[[], T], path: Path, form: str, allowed: Collection[str], option: str) -> T:
    """What `read` gives; an error says so if the content looks like another format."""
    try:
        return read()
    except ValueError as error:
        found = recognise(path)
        fitting = [name for name in found if name in allowed]
        if not found or form in (fitting[:1] or found):
            raise
        remedy = f": set {option}={fitting[0]}" if fitting else f", and no format of {option} reads that"
        raise ValueError(f"{error}; this looks like {TITLES[(fitting or found)[0]]}{remedy}") from None


def recognise(path: Path) -> list[str]:
    """The formats that the content of a file or folder looks like; empty if it is none that we know."""
    if path.is_dir():
        found = [form for form, pattern in _KINDS.items() if next(path.glob(pattern), None) is not None]
        return found or (["imagefolder"] if class_folders(path) else [])
    if path.suffix in (".tar", ".parquet"):
        return ["webdataset" if path.suffix == ".tar" else "parquet"]
    try:
        content = checked.load(path)
    except ValueError:
        return ["nlvr2"] if _first_line_has(path, {"identifier", "sentence"}) else []
    return [form for form, looks in _LOOKS.items() if looks(content)]


def class_folders(path: Path) -> bool:
    """Whether a folder holds `<class>/<image>`."""
    return any(is_image(image.name) for folder in folders_in(path) for image in folder.iterdir())


_KINDS = {"webdataset": "*.tar", "parquet": "*.parquet", "files": "*/*.json"}


def _first_line_has(path: Path, keys: set[str]) -> bool:
    try:
        listed = checked.load_lines(path)
    except ValueError:
        return False
    return bool(listed) and isinstance(listed[0][1], dict) and keys <= listed[0][1].keys()


def _first(content: Any, *path: str) -> set[str]:
    """The keys of the first object of a list, or of the list at a key of an object."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    return set(first) if isinstance(first, dict) else set()


def _gqa(content: Any) -> bool:
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and {"imageId", "question"} <= first.keys()


_LOOKS: Mapping[str, Callable[[Any], bool]] = {
    "karpathy": lambda c: {"sentences", "split"} <= _first(c, "images"),
    "nocaps": lambda c: "domain" in _first(c, "images"),
    "coco": lambda c: {"image_id", "caption"} <= _first(c, "annotations"),
    "vqav2": lambda c: "question_id" in _first(c, "questions") | _first(c, "annotations"),
    "gqa": _gqa,
    "visual_genome": lambda c: bool({"regions", "qas"} & _first(c)),
    "grouped": lambda c: {"image", "caption", "bb"} <= _first(c),
    "nlvr2": lambda c: {"identifier", "sentence"} <= (set(c) if isinstance(c, dict) else _first(c)),
    "salesforce": lambda c: "image" in _first(c) or {"sentence", "images"} <= _first(c),
    "coop": lambda c: isinstance(c, dict) and {"train", "val", "test"} <= c.keys(),
}
