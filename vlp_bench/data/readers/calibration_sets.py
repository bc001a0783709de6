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
from vlp_bench.data.readers.classes import SUFFIXES
from vlp_bench.data.transforms.decoding import Folder, inside

_log = logging.getLogger(__name__)
CAPTIONS, TEXTS, CHATS = "images with captions", "texts", "chats"
KINDS = (
    "a folder of images with captions (captions.jsonl, Karpathy's JSON, or a .txt beside each image), or in a folder "
    "for every class, "
    'a file of texts (.jsonl with {"text": ...}, or .txt, one a line), '
    'or a file of chats (.jsonl with {"messages": [...]} or LLaVA\'s {"conversations": [...]})'
)
LISTS = ("captions.jsonl", "metadata.jsonl", "captions.json", "dataset.json")
"""Files a folder of images is described by, in order of preference."""
IMAGE_KEYS = ("image", "file_name", "filename", "path")
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
MARK = "<image>"
"""Where LLaVA's conversations show an image."""
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
        yield f"{again} of {len(records)} records stand in it twice, the first is {checked.brief(first.text or first)}"
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
    if path.suffix == ".txt":
        return CalibrationSet(path, TEXTS, [Row(text=line) for line in checked.lines(path)], path.parent)
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"calibration={path}: its name ends in {path.suffix or 'nothing'}; give {KINDS}")
    return _of_file(path)


# Folders


def _of_folder(path: Path) -> CalibrationSet:
    """By its list, else by the one JSON file in it, else by the .txt beside each image."""
    lists = [path / name for name in LISTS if (path / name).is_file()]
    lists = lists or sorted([*path.glob("*.jsonl"), *path.glob("*.json")])
    if len(lists) > 1 and lists[0].name not in LISTS:
        names = ", ".join(file.name for file in lists[:4])
        raise ValueError(f"calibration={path}: {names} lie there; give the path of one of them")
    if lists:
        return _of_file(lists[0])
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not images:
        raise ValueError(f"calibration={path}: no image and no list lies there; give {KINDS}")
    captioned = [image for image in images if image.with_suffix(".txt").is_file()]
    if captioned and len(captioned) < len(images):
        lacks = next(image for image in images if image not in captioned)
        raise ValueError(f"{lacks} has no {lacks.stem}.txt beside it, as others have: write it or take the image away")
    texts = [" ".join(checked.lines(image.with_suffix(".txt"))) if captioned else "" for image in images]
    names = [image.relative_to(path) for image in images]
    classes = tuple(sorted({name.parts[0] for name in names})) if all(len(name.parts) == 2 for name in names) else ()
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
    first = next((record for _, record in found if isinstance(record, dict)), {})
    for kind, keys, parse in _PARSERS:
        if any(key in first for key in keys):
            return CalibrationSet(path, kind, list(_parsed(path, found, parse)), path.parent)
    if path.suffix == ".json":
        return _known(path)
    keys = ", ".join(map(repr, list(first)[:6])) or "no key"
    raise ValueError(f"{path}, {found[0][0]}: its keys are {keys}; give {KINDS}")


def _entries(path: Path) -> list[tuple[str, Any]] | None:
    """(line or record in words, its content); None for a JSON file that is no list."""
    if path.suffix == ".jsonl":
        found = [(f"line {n}", _decoded(path, n, text)) for n, text in _lines(path) if text.strip()]
    else:
        content = checked.load(path)
        if not isinstance(content, list):
            return None
        found = [(f"record {number}", record) for number, record in enumerate(content)]
    if not found:
        raise ValueError(f"{path} is empty; is the download complete?")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error.reason}); save it as UTF-8") from None


def _decoded(path: Path, number: int, text: str) -> Any:
    try:
        return checked.decoded(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number} is not JSON ({error}); write one JSON object a line") from None


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
            keys.see(record)
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
    for place in (key, f"images/{key}"):
        if (root / inside(place)).is_file():
            return place
    raise BadRecord(f"there is no image {root / key}: paths start from the folder of the file")


def _captioned(record: Record, root: Path) -> Row:
    caption = "caption" if "caption" in record else "text"
    return Row((_key(record, root),), checked.texts(record, caption)[0])


def _text(record: Record, root: Path) -> Row:
    return Row(text=checked.text(record, "text"))


# Chats


def _messages(record: Record, root: Path) -> Row:
    """`{"messages": [{"role": ..., "content": text or [{"type": "image", "image": path}, {"type": "text", ...}]}]}`."""
    images: list[str] = []
    said = [_message(message, root, images) for message in _listed(record, "messages")]
    return Row(tuple(images), "", tuple(said))


def _listed(record: Record, key: str) -> list[Any]:
    found = record.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise BadRecord(f"needs {key!r}, a list of at least one object, got {checked.brief(found)}")
    return found


def _message(message: Record, root: Path, images: list[str]) -> Message:
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else _listed(message, "content")
    return {"role": _role(message, "role"), "content": [_part(part, root, images) for part in parts]}


def _role(message: Record, key: str) -> str:
    found = message.get(key)
    if not isinstance(found, str) or found not in ROLES:
        raise BadRecord(f"{key!r} must be one of {', '.join(ROLES)}, got {checked.brief(found)}")
    return ROLES[found]


def _part(part: Record, root: Path, images: list[str]) -> dict[str, str]:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": checked.text(part, "text")}
    if kind == "image":
        images.append(_key(part, root, ("image", "path", "file_name", "url")))
        return {"type": "image"}
    raise BadRecord(f"'type' must be 'text' or 'image', got {checked.brief(kind)}")


def _conversation(record: Record, root: Path) -> Row:
    """LLaVA's: `{"image": path or [path, ...], "conversations": [{"from": "human", "value": "<image>\\n..."}]}`."""
    given = record.get("image", [])
    images = tuple(_key({"image": one}, root) for one in (given if isinstance(given, list) else [given]))
    turns = [(_role(turn, "from"), checked.text(turn, "value")) for turn in _listed(record, "conversations")]
    shown = sum(text.count(MARK) for _, text in turns)
    if shown != len(images):
        raise BadRecord(f"its conversation shows {shown} images ({MARK}), 'image' gives {len(images)}; make them equal")
    return Row(images, "", tuple({"role": role, "content": list(_split(text))} for role, text in turns))


def _split(text: str) -> Iterator[dict[str, str]]:
    for number, piece in enumerate(text.split(MARK)):
        if number:
            yield {"type": "image"}
        if piece.strip():
            yield {"type": "text", "text": piece.strip()}


_PARSERS: Sequence[tuple[str, Sequence[str], Callable[[Record, Path], Row]]] = (
    (CHATS, ("messages",), _messages),
    (CHATS, ("conversations",), _conversation),
    (CAPTIONS, IMAGE_KEYS, _captioned),
    (TEXTS, ("text",), _text),
)
"""Kind, keys of which the first record has one, and what reads a record; the first that fits counts."""
