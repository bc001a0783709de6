"""Visual Genome's original files, GQA's questions, which are about the same images, and NLVR2's official lists."""

import logging
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from vlp_bench.data.readers import checked
from vlp_bench.data.readers.annotations import Size, distinct, fitting, framed, label
from vlp_bench.data.readers.checked import BadRecord, Record
from vlp_bench.data.records import ImagePair, Question, RegionCaption, RegionImage
from vlp_bench.spelling import count_of

_log = logging.getLogger(__name__)


def read_region_descriptions(path: str | Path, size: Size) -> list[RegionImage]:
    """`region_descriptions.json`. Phrases without a word and boxes outside their image are left out and counted.

    `image_data.json` beside it tells the images' sizes and which of the two folders each lies in; without it images
    are `<id>.jpg` and `size` is asked.

    Raises:
        ValueError: no such file, another format, a wrong record, or no region left.
    """
    path = Path(path)
    data = _image_data(path)
    mute: list[str] = []
    records = checked.objects(path, checked.load(path))

    def read(record: Record) -> tuple[str, tuple[int, int], list[RegionCaption]]:
        known = _known(record, data)
        regions = [_region(r) for r in _own(record, "regions")]
        mute.extend(r.caption for r in regions if not any(map(str.isalnum, r.caption)))
        spoken = [r for r in regions if any(map(str.isalnum, r.caption))]
        return known["image"], framed(known, known["image"], size), spoken

    found = fitting(path, checked.parsed(path, records, read))
    if mute:
        _log.warning("%s: left out %s without a word in the phrase", path, count_of(len(mute), "region"))
    return found


def read_question_answers(path: str | Path) -> list[Question]:
    """`question_answers.json`: one answer a question, without the full stop it ends with. Images as for regions.

    Raises:
        ValueError: no such file, another format, a wrong record, or an id used twice.
    """
    path = Path(path)
    data = _image_data(path)
    records = checked.objects(path, checked.load(path))

    def read(record: Record) -> list[Question]:
        image = _known(record, data)["image"]
        return [_question(qa, image) for qa in _own(record, "qas")]

    return distinct(path, chain.from_iterable(checked.parsed(path, records, read)))


def _image_data(path: Path) -> dict[int, Record]:
    """Image id -> its image, width and height; empty where there is no image_data.json beside `path`."""
    beside = path.with_name("image_data.json")
    if not beside.is_file():
        return {}
    listed = checked.parsed(beside, checked.objects(beside, checked.load(beside)), _image_datum)
    return checked.unique(beside, listed, "the image id")


def _image_datum(record: Record) -> tuple[int, Record]:
    number = checked.number(record, "image_id")
    width, height = checked.frame(record.get("width"), record.get("height"))
    url = record.get("url", f"{number}.jpg")
    if not isinstance(url, str):
        raise BadRecord(f"'url' must be the address of the image, got {checked.brief(url)}")
    parts = PurePosixPath(url).parts
    name = "/".join(parts[-2:] if len(parts) > 1 and parts[-2].startswith("VG_100K") else parts[-1:])
    return number, {"image": checked.image({"url": name}, "url"), "width": width, "height": height}


def _known(record: Record, data: Mapping[int, Record]) -> Record:
    number = checked.number(record, "id" if "id" in record else "image_id")
    if data and number not in data:
        raise BadRecord(f"is about image {number}, which image_data.json does not know")
    return data.get(number, {"image": f"{number}.jpg"})


def _own(record: Record, key: str) -> list[Record]:
    """What a record lists of its image; BadRecord for an entry that says it is of another."""
    entries, image = _listed(record, key), record.get("id", record.get("image_id"))
    if other := next((entry["image_id"] for entry in entries if entry.get("image_id", image) != image), None):
        raise BadRecord(f"is about image {image} and lists one of {key!r} about {checked.brief(other)}")
    return entries


def _listed(record: Record, key: str) -> list[Record]:
    found = record.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadRecord(f"needs {key!r}, a list of objects, got {checked.brief(found)}")
    return found


def _region(record: Record) -> RegionCaption:
    box = checked.box([record.get(key) for key in ("x", "y", "width", "height")], "x, y, width, height")
    return RegionCaption(checked.answers(record, "phrase")[0], box)


def _question(record: Record, image: str) -> Question:
    answer = checked.answers(record, "answer")[0].strip().removesuffix(".")
    asked = checked.text(record, "question")
    return Question(image, asked, (answer,), checked.number(record, "qa_id"), dataset="vg")


def read_gqa(path: str | Path) -> list[Question]:
    """GQA's official `*_questions.json`: question id -> imageId, question, answer (absent in test files), types.

    `question_type` is its semantic and `answer_type` its structural type.

    Raises:
        ValueError: no such file, another format, or a wrong record.
    """
    path = Path(path)
    content: Any = checked.load(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must be a JSON object of questions by id, got {checked.kind(content)}")
    records = (
        dict(q, question_id=i, **_dotted(q.get("types"))) if isinstance(q, dict) else q for i, q in content.items()
    )
    return list(checked.parsed(path, records, _gqa))


def _dotted(types: Any) -> Record:
    """The types of a question as keys of it, so that one that few lack is noticed."""
    return {f"types.{key}": value for key, value in types.items()} if isinstance(types, dict) else {}


def _gqa(record: Record) -> Question:
    image = checked.image({"imageId": f"{checked.identity(record, 'imageId')}.jpg"}, "imageId")
    types: Any = record.get("types") or {}
    if not isinstance(types, dict) or not all(isinstance(t, str | None) for t in types.values()):
        raise BadRecord(f"the 'types' of a question must be texts by name, got {checked.brief(types)}")
    semantic, structural = (types.get(key) or "" for key in ("semantic", "structural"))
    given = checked.answers_if_any(record)[:1]
    number = checked.identity(record, "question_id")
    return Question(image, checked.text(record, "question"), given, number, semantic, structural, "gqa")


def read_nlvr2(path: str | Path) -> list[ImagePair]:
    """NLVR2's official list, one JSON object a line: `{"identifier": "dev-850-0-0", "sentence", "label"}`.

    Images are `<first word>/<identifier without its last number>-img{0,1}.png`; training images lie in `directory`
    below it.

    Raises:
        ValueError: no such file, another format, a wrong record, or an identifier used twice.
    """
    path = Path(path)
    pairs = checked.parsed_entries(path, checked.load_lines(path), _nlvr2)
    return list(checked.unique(path, ((pair.identity, pair) for pair in pairs), "the identifier").values())


def _nlvr2(record: Record) -> ImagePair:
    identity = checked.text(record, "identifier")
    stem, _, number = identity.rpartition("-")
    if not stem or not number.isdigit():
        raise BadRecord(f"'identifier' must be like 'dev-850-0-0', got {checked.brief(identity)}")
    folder = "/".join([stem.split("-")[0], *_directory(record)])
    left, right = (checked.image({"image": f"{folder}/{stem}-img{side}.png"}) for side in (0, 1))
    pictures = stem.rpartition("-")[0]  # all pairs of a set: NLVR2's own metrics leave the pair's number out
    return ImagePair((left, right), checked.text(record, "sentence"), label(record), identity, f"{pictures}--{number}")


def _directory(record: Record) -> Iterator[str]:
    if "directory" in record:
        yield str(checked.identity(record, "directory"))
