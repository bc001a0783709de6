"""COCO's families of files: Karpathy's splits, COCO captions, NoCaps, VQAv2 and OK-VQA."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp_bench.data.readers import checked
from vlp_bench.data.readers.annotations import distinct, gathered
from vlp_bench.data.readers.checked import BadRecord, Record, Together
from vlp_bench.data.records import CaptionedImage, Question

KARPATHY = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
"""Our splits -> the names Karpathy's files use; all work on COCO trains on both."""
DOMAINS = ("in-domain", "near-domain", "out-domain")


def read_karpathy(path: str | Path, split: str) -> list[CaptionedImage]:
    """One split ("train", "val" or "test") of `dataset_{coco,flickr30k,flickr8k}.json`.

    Images are found at filepath/filename, where there is a filepath; their identity is `cocoid`, or else `imgid`.

    Raises:
        ValueError: no such file, another format, a wrong record, or a split without images.
    """
    path = Path(path)
    wanted = KARPATHY.get(split)
    if wanted is None:
        raise ValueError(f"Karpathy's files have the splits {', '.join(KARPATHY)}, got {split!r}")
    records = checked.objects(path, checked.part(path, checked.load(path), "images"), "a list of images")
    listed = list(checked.parsed(path, records, _karpathy))
    chosen = [image for s, image in listed if s in wanted]
    if not chosen:
        there = ", ".join(f"{n:,} of {name!r}" for name, n in Counter(s for s, _ in listed).items()) or "none at all"
        raise ValueError(
            f"{path} has no image of the split {split!r} (there are {there}): is it the whole file? Give some images "
            f"'split': {split!r}"
        )
    return gathered(path, chosen)


def _karpathy(record: Record) -> tuple[str, tuple[str, str, list[str]]]:
    sentences = record.get("sentences")
    if not isinstance(sentences, list) or not sentences or not all(isinstance(s, dict) for s in sentences):
        raise BadRecord(f"needs 'sentences', a list of objects with 'raw', got {checked.got(record, 'sentences')}")
    if not isinstance(record.get("filepath", ""), str):
        raise BadRecord(f"'filepath' must be the folder of the image, got {checked.brief(record['filepath'])}")
    place = {"filename": "/".join(filter(None, (record.get("filepath"), checked.image(record, "filename"))))}
    known = [name for names in KARPATHY.values() for name in names]
    if record.get("split") not in known:
        raise BadRecord(f"needs 'split', one of {', '.join(known)}, got {checked.got(record, 'split')}")
    identity = checked.identity(record, "cocoid" if "cocoid" in record else "imgid")
    captions = [checked.text(sentence, "raw") for sentence in sentences]
    return record["split"], (str(identity), checked.image(place, "filename"), captions)


def read_coco(path: str | Path) -> list[CaptionedImage]:
    """`captions_{train,val}2014.json`, and every file of its form. Images are in the order of the file.

    COCO's own names say which folder an image lies in (`COCO_val2014_...` in val2014); others are taken as they are.

    Raises:
        ValueError: no such file, another format, a wrong record, or an image without a caption.
    """
    path = Path(path)
    content = checked.load(path)
    listed = checked.parsed(path, checked.objects(path, checked.part(path, content, "images")), _coco_image)
    images = checked.unique(path, listed, "the image id")
    checked.unique(path, ((image.image, identity) for identity, image in images.items()), "the image")
    told: dict[str, list[str]] = {identity: [] for identity in images}
    annotations = checked.objects(path, checked.part(path, content, "annotations"))
    ids = [record["id"] for record in annotations if isinstance(record, dict) and "id" in record]
    checked.unique(path, ((str(identity), None) for identity in ids), "the annotation id")
    strange: dict[str, None] = {}
    for identity, caption in checked.parsed(path, annotations, _coco_caption):
        told.get(identity, []).append(caption)
        strange |= {} if identity in told else {identity: None}
    if strange:
        raise Together(f"{path}: captions are of image_id {checked.some(strange)}, not among 'images'")
    if silent := [identity for identity, captions in told.items() if not captions]:
        raise Together(f"{path}: {len(silent)} of {len(told)} images without a caption: id {checked.some(silent)}")
    return [replace(images[i], captions=tuple(captions)) for i, captions in told.items()]


def _coco_image(record: Record) -> tuple[str, CaptionedImage]:
    identity = str(checked.identity(record, "id"))
    domain = record.get("domain", "")
    if domain and domain not in DOMAINS:
        raise BadRecord(f"'domain' must be {', '.join(DOMAINS)}, got {checked.brief(domain)}")
    name = checked.image(record, "file_name")
    found = re.fullmatch(r"COCO_([a-z]+\d{4})_\d{12}\.jpg", name)
    return identity, CaptionedImage(f"{found[1]}/{name}" if found else name, (), identity, domain)


def _coco_caption(record: Record) -> tuple[str, str]:
    return str(checked.identity(record, "image_id")), checked.text(record, "caption")


def read_nocaps(path: str | Path) -> list[CaptionedImage]:
    """`nocaps_val_4500_captions.json`: COCO's form, with the domain of every image."""
    path = Path(path)
    found = read_coco(path)
    if not all(image.domain for image in found):
        raise ValueError(f"{path}: every image of NoCaps has a 'domain' ({', '.join(DOMAINS)}); one here has none")
    return found


def read_vqa(path: str | Path, answers: str | Path | None = None) -> list[Question]:
    """Questions in VQAv2's and OK-VQA's official form with their answers; test questions have none.

    The image of a question is, of these the first that is there: its `image` (a path), the `file_name` of its
    `image_id` among the file's `images` (as in COCO's files), COCO's name in the folder that `data_subtype` names
    (train2014, val2014, test2015, test-dev2015), its `image_id` where that is a file's name.

    Args:
        path: `..._questions.json`.
        answers: `..._annotations.json`; without it, the file of that name beside the questions, where there is one.

    Raises:
        ValueError: no such file, another format, a wrong record, an id used twice, or a question without its answers.
    """
    path = Path(path)
    content = checked.load(path)
    asked = checked.objects(path, checked.part(path, content, "questions"))
    place = _image_places(path, content)
    found = distinct(path, checked.parsed(path, asked, lambda record: _vqa_question(record, place)))
    shown = {record.get("question_id"): record.get("image_id") for record in asked if isinstance(record, dict)}
    beside = Path(answers) if answers is not None else answers_beside(path)
    if answers is None and (beside == path or not beside.is_file()):
        return found
    return _answered(path, found, beside, shown)


def _image_places(path: Path, content: Mapping[str, Any]) -> Callable[[Record], str]:
    """Question -> the path of its image."""
    told = content.get("images")
    listed = checked.parsed(path, told, _named_image) if isinstance(told, list) else []
    names = checked.unique(path, listed, "the image id")
    given = content.get("data_subtype")
    subtype = given.replace("test-dev", "test") if isinstance(given, str) and _SUBTYPE.fullmatch(given) else None

    def place(record: Record) -> str:
        if "image" in record:
            return checked.image(record)
        identity = checked.identity(record, "image_id")
        if str(identity) in names:
            return names[str(identity)]
        if subtype is not None and str(identity).isdecimal():
            return f"{subtype}/COCO_{subtype}_{int(identity):012d}.jpg"
        if isinstance(identity, str) and re.search(r"\.[A-Za-z]{3,4}$", identity):
            return checked.image(record, "image_id")
        raise BadRecord(
            f"has image_id {checked.brief(identity)} and no file's name: give it 'image', or the file 'images' (id and "
            "file_name), or 'data_subtype' (train2014, ...) for COCO's names"
        )

    return place


_SUBTYPE = re.compile(r"[a-z-]+\d{4}")


def _named_image(record: Record) -> tuple[str, str]:
    return str(checked.identity(record, "id")), checked.image(record, "file_name")


def answers_beside(path: Path) -> Path:
    """The file of the answers to a file of questions, by its name; the same file where that is no such name.

    v2_OpenEnded_mscoco_val2014_questions.json -> v2_mscoco_val2014_annotations.json.
    """
    return path.with_name(path.name.replace("OpenEnded_", "").replace("_questions", "_annotations"))


def _vqa_question(record: Record, place: Callable[[Record], str]) -> Question:
    return Question(place(record), checked.text(record, "question"), (), checked.identity(record, "question_id"))


def _answered(path: Path, questions: list[Question], answers: Path, shown: Mapping[Any, Any]) -> list[Question]:
    """The questions with what `answers` says of them; `shown`: question_id -> image_id, as the questions have them."""
    annotations = checked.objects(answers, checked.part(answers, checked.load(answers), "annotations"))
    known = checked.unique(
        answers, checked.parsed(answers, annotations, lambda record: _vqa_answers(record, shown)), "question_id"
    )
    missing = [q.question_id for q in questions if q.question_id not in known]
    if missing:
        raise Together(f"{answers} has no answers to {len(missing)} of {path.name}: {checked.some(missing)}")
    return [replace(q, **known[q.question_id]) for q in questions]


def _vqa_answers(record: Record, shown: Mapping[Any, Any]) -> tuple[int | str, dict[str, Any]]:
    listed = record.get("answers")
    if not isinstance(listed, list) or not listed or not all(isinstance(a, dict) for a in listed):
        raise BadRecord(f"needs 'answers', a list of objects with 'answer', got {checked.got(record, 'answers')}")
    numbers = [str(a["answer_id"]) for a in listed if "answer_id" in a]
    if len({*numbers}) < len(numbers):
        raise BadRecord("has two answers with one answer_id")
    types = {key: record.get(key, "") for key in ("question_type", "answer_type")}
    if not all(isinstance(t, str) for t in types.values()):
        raise BadRecord("'question_type' and 'answer_type' must be texts")
    given = tuple(checked.answers(a, "answer")[0] for a in listed)
    identity, image = checked.identity(record, "question_id"), record.get("image_id")
    if image is not None and shown.get(identity, image) not in (image, None):
        raise BadRecord(f"answers question {identity} about image {checked.brief(image)}, which is asked of another")
    return identity, {"answers": given, **types}
