"""What an annotation says, whatever file it came from: frozen records without tensors.

`image` is a key that the image source of the same data set opens: a path below a root folder, or the address of a
scene of the embedded world.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width, height; pixels of the original image."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image and every caption that is true of it. `image_id` is the identity that ITC's soft targets compare.

    `domain`: NoCaps' "in-domain", "near-domain" or "out-domain"; empty elsewhere.
    """

    image: str
    captions: tuple[str, ...]
    image_id: str
    domain: str = field(default="", repr=False)


@dataclass(frozen=True)
class RegionCaption:
    """A caption of the part of an image inside `box`."""

    caption: str
    box: Box


@dataclass(frozen=True)
class RegionImage:
    """An image with captioned regions; `size` is (width, height) in pixels, the frame its boxes are measured in."""

    image: str
    regions: tuple[RegionCaption, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A question in VQAv2's form: ten answers by ten people, and the types its accuracy is broken down by.

    Other sets have one answer, their test files none. `question_id` is written as the file has it. `dataset` ("vqa",
    "vg", "gqa", ...) says how answers are weighed: VQA's by how many gave them, Visual Genome's by one half.
    """

    image: str
    question: str
    answers: tuple[str, ...]
    question_id: int | str
    question_type: str = ""
    answer_type: str = ""
    dataset: str = field(default="vqa", repr=False)


@dataclass(frozen=True)
class ImagePair:
    """NLVR2: a sentence that is true or false of a left and a right image; label None where a test set hides it.

    `said`: the sentence's own identity, which all pairs it was written about share.
    """

    images: tuple[str, str]
    sentence: str
    label: bool | None
    identity: str
    said: str = field(default="", repr=False)


@dataclass(frozen=True)
class MultipleChoice:
    """MMLU's: a question of a subject with four choices; `answer` is the place of the right one, from 0."""

    subject: str
    question: str
    choices: tuple[str, str, str, str]
    answer: int


@dataclass(frozen=True)
class LabelledImage:
    """An image of class number `label`."""

    image: str
    label: int


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images and the names of their classes: `names[label]`."""

    records: tuple[LabelledImage, ...]
    names: tuple[str, ...]


def said_in(records: Sequence[Any]) -> list[str]:
    """Every text of some records, of whatever kind."""
    return [text for record in records for text in _texts(record)]


def _texts(record: Any) -> tuple[str, ...]:
    if isinstance(record, CaptionedImage):
        return record.captions
    if isinstance(record, RegionImage):
        return tuple(region.caption for region in record.regions)
    if isinstance(record, Question):
        return (record.question, *dict.fromkeys(record.answers))
    return (record.sentence,) if isinstance(record, ImagePair) else ()
