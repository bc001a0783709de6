"""Annotation files of the released MULTIFLOW, X-VLM and BLIP code -> records. All of them are one list.

The list is JSON, an object a line (.jsonl), or a table (.csv, .tsv). Every error names the file, the number of the
record (from 0) or of its line, and what would mend it.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vlp_bench.data.readers import checked
from vlp_bench.data.readers.checked import BadRecord, Record
from vlp_bench.data.records import CaptionedImage, ImagePair, Question, RegionCaption, RegionImage
from vlp_bench.data.transforms.decoding import inside
from vlp_bench.spelling import count_of

Size = Callable[[str], tuple[int, int]]
"""Key of an image -> (width, height) in pixels."""
Framed = tuple[str, tuple[int, int], list[RegionCaption]]
"""Key of an image, its size in pixels, its regions."""

_log = logging.getLogger(__name__)


def read_captions(path: str | Path) -> list[CaptionedImage]:
    """Images with their captions, in order of first appearance.

    Reads all three released forms: training (a record per caption, `{"caption": str, "image": str, "image_id": str or
    int}`), validation and test (a record per image, `{"image": str, "caption": [str, ...]}`) and calibration
    (`{"image": str, "caption": str, "dataset": str}`). Captions of one `image_id` are gathered; without one the path of
    the image is its identity.

    Raises:
        ValueError: no such file, no list, an empty one, or a record that is wrong.
    """
    path = Path(path)
    return gathered(path, checked.parsed_list(path, _captioned, ("image", "caption")))


def gathered(path: Path, captions: Iterable[tuple[str, str, list[str]]]) -> list[CaptionedImage]:
    """(identity, image, captions) -> an image for every identity.

    Raises:
        ValueError: one identity has two images, or one image two identities (they would be each other's negatives).
    """
    told: dict[str, list[str]] = {}
    images: dict[str, str] = {}
    identities: dict[str, str] = {}
    for identity, image, texts in captions:
        if images.setdefault(identity, image) != image:
            raise ValueError(
                f"{path}: image_id {identity!r} is given to {images[identity]} and {image}; give each its own"
            )
        if identities.setdefault(image, identity) != identity:
            raise ValueError(
                f"{path}: {image} has the image_ids {identities[image]!r} and {identity!r}; give one image one id"
            )
        told.setdefault(identity, []).extend(texts)
    return [CaptionedImage(images[i], tuple(texts), i) for i, texts in told.items()]


def read_regions(path: str | Path, size: Size) -> list[RegionImage]:
    """Visual Genome's regions as X-VLM wrote them: `{"image": str, "elems": [{"caption": str, "bb": [x, y, w, h]}]}`.

    An element may carry `attributes`, put before its caption, and captions may be lists; a record may have a `caption`
    of the whole image. Regions that are not wholly inside their image are dropped and counted, as are images left
    without one.

    Args:
        path: the list.
        size: asked for an image whose record has no `width` and `height`.

    Raises:
        ValueError: no such file, no list, an empty one, a record that is wrong, or no region left.
    """
    path = Path(path)
    return fitting(path, checked.parsed_list(path, lambda record: _regional(record, size)))


def read_grouped(path: str | Path, size: Size) -> list[RegionImage]:
    """Captions grouped by image with parallel boxes: `{"image": str, "caption": [str, ...], "bb": [[x, y, w, h]]}`.

    Regions outside their image are treated, and errors raised, as by `read_regions`.
    """
    path = Path(path)
    return fitting(path, checked.parsed_list(path, lambda record: _grouped(record, size)))


def fitting(path: Path, images: Iterable[Framed]) -> list[RegionImage]:
    """The images with the regions that lie inside them; says how many do not.

    Raises:
        ValueError: no region is left.
    """
    kept: list[RegionImage] = []
    dropped = 0
    for image, frame, regions in images:
        inside_it = tuple(r for r in regions if checked.fits(r.box, frame))
        dropped += len(regions) - len(inside_it)
        if inside_it:
            kept.append(RegionImage(image, inside_it, frame))
    if dropped:
        _log.warning("%s: left out %s outside the image", path, count_of(dropped, "region"))
    if not kept:
        raise ValueError(f"{path}: no region lies inside its image; boxes are [x, y, width, height] in pixels")
    return kept


def read_questions(path: str | Path) -> list[Question]:
    """Questions with their answers, one or ten, or without in test files.

    `{"question_id": int, "question": str, "image": str, "dataset": "vqa" | "vg" | "gqa", "answer": str or [str, ...]}`;
    without `dataset` it is "vqa". A table has a column `answer` for each of ten.
    Of Visual Genome's paths only the name counts: its images lie in one flat folder.

    Raises:
        ValueError: no such file, no list, an empty one, a record that is wrong, or an id used twice.
    """
    path = Path(path)
    return distinct(path, checked.parsed_list(path, _asked, ("question_id", "question", "image")))


def distinct(path: Path, questions: Iterable[Question]) -> list[Question]:
    """The questions as a list; ValueError if some of them share an id."""
    return list(
        checked.unique(path, ((question.question_id, question) for question in questions), "question_id").values()
    )


def read_pairs(path: str | Path) -> list[ImagePair]:
    """NLVR2 as Salesforce wrote it: `{"sentence": str, "label": "True" | "False", "images": [left, right]}`.

    A table has two columns `images`, of the left and of the right one.
    """
    path = Path(path)
    return list(checked.parsed_list(path, _paired, ("images", "sentence")))


def _captioned(record: Record) -> tuple[str, str, list[str]]:
    image = checked.image(record)
    identity = checked.identity(record, "image_id") if "image_id" in record else image
    return str(identity), image, checked.texts(record, "caption")


def _regional(record: Record, size: Size) -> Framed:
    image, elements = checked.image(record), record.get("elems")
    if not isinstance(elements, list) or not all(isinstance(e, dict) for e in elements):
        raise BadRecord("'elems' must be a list of objects with 'caption' and 'bb'")
    frame = framed(record, image, size)
    regions = [region for element in elements for region in _element(element)]
    if "caption" in record:
        whole = (0.0, 0.0, float(frame[0]), float(frame[1]))
        regions += [RegionCaption(text, whole) for text in checked.texts(record, "caption")]
    return image, frame, regions


def framed(record: Record, image: str, size: Size) -> tuple[int, int]:
    """`width` and `height` of a record, or else what `size` says of its image."""
    given = (record["width"], record["height"]) if {"width", "height"} <= record.keys() else size(image)
    return checked.frame(*given)


def _element(element: Record) -> Iterator[RegionCaption]:
    """The captions of one box, each after one of its attributes, taken in turn."""
    box = checked.box(element.get("bb"))
    attributes = checked.texts(element, "attributes") if element.get("attributes") else [""]
    for i, caption in enumerate(checked.texts(element, "caption")):
        yield RegionCaption(f"{attributes[i % len(attributes)]} {caption}".strip(), box)


def _grouped(record: Record, size: Size) -> Framed:
    image, captions = checked.image(record), checked.texts(record, "caption")
    boxes: Any = record.get("bb")
    if not isinstance(boxes, list) or len(boxes) != len(captions):
        raise BadRecord(f"needs 'bb', one [x, y, width, height] for each of its {len(captions)} captions")
    regions = [RegionCaption(c, checked.box(b)) for c, b in zip(captions, boxes, strict=True)]
    return image, framed(record, image, size), regions


def _asked(record: Record) -> Question:
    dataset = record.get("dataset", "vqa")
    if dataset not in ("vqa", "vg", "gqa", "okvqa"):
        raise BadRecord(f"'dataset' must be vqa, vg, gqa or okvqa, got {checked.brief(dataset)}")
    image = checked.image(record)
    return Question(
        inside(image).name if dataset == "vg" else image,
        checked.text(record, "question"),
        checked.answers_if_any(record),
        checked.identity(record, "question_id"),
        dataset=dataset,
    )


def _paired(record: Record) -> ImagePair:
    images = record.get("images")
    if not isinstance(images, list) or len(images) != 2:
        raise BadRecord(f"needs 'images', the paths of a left and a right image, got {checked.brief(images)}")
    left, right = (checked.image({"images": i}, "images") for i in images)
    sentence = checked.text(record, "sentence")
    pictures = re.sub(r"(-\d+)?-img[01]$", "", inside(left).stem)  # "dev-850-0-img0": set 850, its pair 0
    return ImagePair((left, right), sentence, label(record), f"{left} {right}", f"{pictures} {sentence}")


def label(record: Record) -> bool | None:
    """Whether the sentence of an NLVR2 record is true; None where the record does not say."""
    found = record.get("label")
    if found not in ("True", "False", None):
        raise BadRecord(f"'label' must be 'True' or 'False', got {checked.brief(found)}")
    return None if found is None else found == "True"
