"""What a stranger calibrates on: images with captions, texts, or chats with images; from a file or a folder.

Every error names the file, the line (or record) and what would mend it. No path in a file leaves the set's root.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlp_bench.data.items import ImageSource
from vlp_bench.data.readers import checked, formats
from vlp_bench.data.readers.checked import BadRecord, Record
from vlp_bench.data.readers.image_files import images_below
from vlp_bench.data.readers.tables import TABLES, columns
from vlp_bench.data.transforms.decoding import Folder, inside

_log = logging.getLogger(__name__)
CAPTIONS, TEXTS, CHATS = "images with captions", "texts", "chats"
KINDS = (
    "a folder of images with captions (captions.jsonl or .csv, Karpathy's JSON, or a .txt beside each image), or in a "
    "folder for every class, "
    'a file of texts (.jsonl with {"text": ...}, or .txt, one a line), '
    'or a file of chats (.jsonl with {"messages": [...]} or LLaVA\'s {"conversations": [...]})'
)
LISTS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv", "captions.json", "dataset.json")
"""Files a folder of images is described by, in order of preference."""
IMAGE_KEYS = ("image", "file_name", "filename", "path")
CAPTION_KEYS = ("text", "caption")
TURNS = ("messages", "conversations")
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
ROLES |= {"developer": "system"}
MARK = "<image>"
"""Where a turn shows the next image that its record lists."""
Message = Mapping[str, Any]
"""`{"role": str, "content": [{"type": "image"} or {"type": "text", "text": str}]}`, as chat templates read it."""


@dataclass(frozen=True)
class Row:
    """A record: keys of its images, its caption or text, or its messages (their images in order); its class's place."""

    images: tuple[str, ...] = ()
    text: str = ""
    messages: tuple[Message, ...] = ()
    label: int = -1


@dataclass(frozen=True)
class Example:
    """What a record shows: upright RGB images, and the words; of class folders their names, and which it lay in."""

    images: tuple[Image.Image, ...]
    text: str
    messages: tuple[Message, ...]
    classes: tuple[str, ...] = ()
    label: int = -1


@dataclass(frozen=True)
class CalibrationSet:
    """A set as it lies on disk; images are opened by `examples`."""

    path: Path
    kind: str
    records: Sequence[Row]
    root: Path
    classes: tuple[str, ...] = ()

    def examples(self, count: int, seed: int = 0) -> list[Example]:
        """`count` of them (all, if there are fewer), drawn without repetition, with their images decoded.

        Raises:
            BrokenImage: one of the images can't be read.
        """
        order = np.random.default_rng(seed).permutation(len(self.records))[:count]
        folder = Folder(self.root)
        chosen = [self.records[int(i)] for i in order]
        shown = ((tuple(opened(folder, key) for key in r.images), r) for r in chosen)
        return [Example(images, r.text, r.messages, self.classes, r.label) for images, r in shown]


def opened(source: ImageSource, key: str) -> Image.Image:
    """An image without metadata, by which processors would turn it once more."""
    image = source.open(key)
    plain = Image.new("RGB", image.size)
    plain.paste(image)
    return plain


def read_set(path: str | Path) -> CalibrationSet:
    """The set at a path.

    Raises:
        ValueError: nothing there, none of the three kinds, or a record that is wrong.
    """
    found = _read(Path(path))
    for line in _repeated(found.records):
        _log.warning("%s: %s", path, line)
    return found


def _repeated(records: Sequence[Row]) -> Iterator[str]:
    """A line for what stands twice, which is seldom meant."""
    said = Counter(map(repr, records))
    if again := len(records) - len(said):
        first = next(record for record in records if said[repr(record)] > 1)
        said_first = next((m["content"] for m in first.messages), first.images)
        told = checked.brief(first.text or said_first)
        yield f"{again} of {len(records)} records stand in it twice, the first is {told}"
    if several := sum(len({*record.images}) < len(record.images) for record in records):
        yield f"{several} of {len(records)} records show an image twice"
    if several := sum(
        any(map(_again, [record.messages, *(m["content"] for m in record.messages)])) for record in records
    ):
        yield f"{several} of {len(records)} chats say the same twice in a row"


def _again(said: Sequence[Any]) -> bool:
    return any(one == other != {"type": "image"} for one, other in pairwise(said))


def _read(path: Path) -> CalibrationSet:
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise ValueError(f"calibration={path}: no such file or folder; give {KINDS}")
    if path.suffix.lower() == ".txt" and not _is_table_of_captions(path):
        return CalibrationSet(path, TEXTS, [Row(text=line) for line in checked.lines(path)], path.parent)
    if path.suffix.lower() not in (".txt", *checked.LISTS):
        raise ValueError(f"calibration={path}: its name ends in {path.suffix or 'nothing'}; give {KINDS}")
    return _of_file(path)


# Folders


def _of_folder(path: Path) -> CalibrationSet:
    """By its list, else by the one JSON file or table in it, else by the .txt beside each image."""
    lists = [path / name for name in LISTS if (path / name).is_file()]
    tables = (file for ending in (*TABLES, ".txt") for file in path.glob(f"*{ending}"))
    lists = lists or sorted([*path.glob("*.jsonl"), *path.glob("*.json"), *filter(_is_table_of_captions, tables)])
    if len(lists) > 1 and lists[0].name not in LISTS:
        names = ", ".join(file.name for file in lists[:4])
        raise ValueError(f"calibration={path}: {names} lie there; give the path of one of them")
    if lists:
        return _of_file(lists[0])
    if below := next((file for name in LISTS for file in sorted(path.glob(f"*/{name}"))), None):
        raise ValueError(f"calibration={path}: no list lies there, but {below} does; give calibration={below.parent}")
    images = images_below(path)
    if not images:
        raise ValueError(f"calibration={path}: no image and no list lies there; give {KINDS}")
    captioned = [image for image in images if image.with_suffix(".txt").is_file()]
    if captioned and len(captioned) < len(images):
        lacks = next(image for image in images if image not in captioned)
        raise ValueError(f"{lacks} has no {lacks.stem}.txt beside it, as others have: write it or take the image away")
    texts = [" ".join(checked.lines(image.with_suffix(".txt"))) if captioned else "" for image in images]
    names = [image.relative_to(path) for image in images]
    depths = {len(name.parts) for name in names}
    classes = tuple(sorted({name.parts[0] for name in names})) if depths == {2} else ()
    if depths - {1, 2} or len(depths) > 1:
        _log.warning("%s: its images are of no class, as not all lie in a folder of its own for every class", path)
    records = [
        Row((name.as_posix(),), text, label=classes.index(name.parts[0]) if classes else -1)
        for name, text in zip(names, texts, strict=True)
    ]
    return CalibrationSet(path, CAPTIONS, records, path, classes)


# Files


def _of_file(path: Path) -> CalibrationSet:
    found = _entries(path)
    if found is None:
        return _known(path)
    known = dict.fromkeys(key for _, record in found if isinstance(record, dict) for key in record)
    for kind, keys, parse in _PARSERS:
        if any(key in known for key in keys):
            return CalibrationSet(path, kind, list(_parsed(path, found, parse)), path.parent)
    if path.suffix.lower() == ".json":
        return _known(path)
    keys = (
        f"its keys are {', '.join(map(repr, list(known)[:6]))}"
        if known
        else f"{checked.brief(found[0][1])} is no object"
    )
    raise ValueError(f"{path}, {found[0][0]}: {keys}; give {KINDS}")


def _entries(path: Path) -> list[checked.Entry] | None:
    """(line or record in words, its content); None for a JSON file that is no list."""
    if path.suffix.lower() == ".txt":  # a table, see `_is_table_of_captions`
        return checked.table(path)
    if path.suffix.lower() != ".json":
        return checked.entries(path)
    content = checked.load(path)
    return [*checked.numbered(checked.objects(path, content))] if isinstance(content, list) else None


def _is_table_of_captions(path: Path) -> bool:
    """Whether its first line is the head of a table of images and captions."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        _, head = columns(path, file.readline(4096))
    return any(key in head for key in IMAGE_KEYS) and any(key in head for key in CAPTION_KEYS)


def _known(path: Path) -> CalibrationSet:
    """A file of captions in a format that the readers of the benchmarks know."""
    forms = [form for form in formats.recognise(path) if form in formats.CAPTIONS]
    if not forms:
        raise ValueError(f"calibration={path}: none of the formats that are known; give {KINDS}")
    root = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    split = formats.captions(path, root, forms[0], "train")
    records = [Row((image.image,), image.captions[0]) for image in split.records]
    return CalibrationSet(path, CAPTIONS, records, root)


def _parsed(path: Path, entries: Sequence[tuple[str, Any]], parse: Callable[[Record, Path], Row]) -> Iterator[Row]:
    keys = checked.Keys()
    for where, record in entries:
        try:
            if not isinstance(record, dict):
                raise BadRecord(f"is a {type(record).__name__}, not an object with keys")
            keys.see({key: value for key, value in record.items() if key not in TURNS})
            yield parse(record, path.parent)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}, {where}: {error}") from None
    for line in keys.lacking():
        _log.warning("%s: %s", path, line)


def _key(record: Record, root: Path, keys: Sequence[str] = IMAGE_KEYS) -> str:
    """The path of an image below the root, where it lies there."""
    name = next((key for key in keys if key in record), keys[0])
    return _there(checked.image(record, name), root)


def _there(key: str, root: Path) -> str:
    for place in (key, f"images/{key}", f"Images/{key}"):
        if (root / inside(place)).is_file():
            return place
    raise BadRecord(f"there is no image {root / key}: paths start from the folder of the file")


def _captioned(record: Record, root: Path) -> Row:
    caption = "text" if "text" in record and "caption" not in record else "caption"
    return Row((_key(record, root),), checked.texts(record, caption)[0])


def _text(record: Record, root: Path) -> Row:
    return Row(text=checked.text(record, "text"))


# Chats


class _Pictures:
    """The images of a chat in their order: named where they are shown, or listed by the record and shown by a mark."""

    def __init__(self, record: Record, root: Path) -> None:
        self.root, self.key = root, next((key for key in ("image", "images") if key in record), "")
        given = record.get(self.key) or []
        self.listed = [_key({"image": one}, root) for one in (given if isinstance(given, list) else [given])]
        self.keys: list[str] = []
        self.shown = 0

    def named(self, key: str) -> None:
        self.keys.append(key)

    def next(self) -> None:
        self.keys += self.listed[self.shown : self.shown + 1]
        self.shown += 1

    def check(self) -> None:
        """BadRecord if not all that are listed are shown once."""
        if self.shown != len(self.listed):
            shows = f"its conversation shows {self.shown} images ({MARK})"
            raise BadRecord(f"{shows}, {self.key or 'image'!r} gives {len(self.listed)}; make them equal")


def _chat(record: Record, root: Path) -> Row:
    """OpenAI's, ShareGPT's or LLaVA's turns, with images in them or beside them.

    `{"messages": [{"role": ..., "content": text or [{"type": "image", "image": path}, {"type": "text", ...}]}]}` or
    `{"conversations": [{"from": "human", "value": "<image>\\n..."}]}`; `"image"` or `"images"` lists paths.
    """
    listed, pictures = next((key for key in TURNS if key in record), TURNS[0]), _Pictures(record, root)
    marked = bool(pictures.key) or listed == "conversations"
    said = [_message(turn, pictures, marked) for turn in _listed(record, listed)]
    pictures.check()
    return Row(tuple(pictures.keys), "", tuple(said))


def _listed(record: Record, key: str) -> list[Any]:
    found = record.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise BadRecord(f"needs {key!r}, a list of at least one object, got {checked.brief(found)}")
    return found


def _message(turn: Record, pictures: _Pictures, marked: bool) -> Message:
    role, content = ("from", "value") if "from" in turn else ("role", "content")
    if not isinstance(turn.get(content), str | list):
        raise BadRecord(f"needs {content!r}, a text or a list of parts, got {checked.got(turn, content)}")
    if isinstance(turn[content], list):
        parts = [_part(part, pictures) for part in _listed(turn, content)]
    else:
        text = checked.text(turn, content)
        parts = list(_split(text, pictures)) if marked else [{"type": "text", "text": text}]
    return {"role": _role(turn, role), "content": parts}


def _role(message: Record, key: str) -> str:
    found = message.get(key)
    if not isinstance(found, str) or found not in ROLES:
        raise BadRecord(f"{key!r} must be one of {', '.join(ROLES)}, got {checked.brief(found)}")
    return ROLES[found]


def _part(part: Record, pictures: _Pictures) -> dict[str, str]:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": checked.text(part, "text")}
    if kind not in ("image", "image_url"):
        raise BadRecord(f"'type' must be 'text', 'image' or 'image_url', got {checked.brief(kind)}")
    place = part.get("image_url", part)  # OpenAI's {"image_url": {"url": path}}
    place = place if isinstance(place, dict) else {"url": place}
    if pictures.listed and not place.keys() - {"type"}:
        pictures.next()
    else:
        pictures.named(_key(place, pictures.root, ("image", "path", "file_name", "url")))
    return {"type": "image"}


def _split(text: str, pictures: _Pictures) -> Iterator[dict[str, str]]:
    for number, piece in enumerate(text.split(MARK)):
        if number:
            pictures.next()
            yield {"type": "image"}
        if piece.strip():
            yield {"type": "text", "text": piece.strip()}


_PARSERS: Sequence[tuple[str, Sequence[str], Callable[[Record, Path], Row]]] = (
    (CHATS, TURNS, _chat),
    (CAPTIONS, IMAGE_KEYS, _captioned),
    (TEXTS, ("text",), _text),
)
"""Kind, keys of which some record has one, and what reads a record; the first that fits counts."""
