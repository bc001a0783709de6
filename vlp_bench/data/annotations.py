"""Annotation files of the released MULTIFLOW, X-VLM and BLIP code -> records. All of them are one JSON list.

Every error names the file, the number of the record (from 0) and what would mend it.
"""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vlp_bench.data.images import inside
from vlp_bench.data.records import Box, CaptionedImage, RegionCaption, RegionImage

Size = Callable[[str], tuple[int, int]]
"""Key of an image -> (width, height) in pixels."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class BadRecord(ValueError):
    """A record that does not say what its format must; the message gets file and number from `_parsed`."""


def read_captions(path: str | Path) -> list[CaptionedImage]:
    """Images with their captions, in order of first appearance.

    Reads all three released forms: training (a record per caption, `{"caption": str, "image": str, "image_id": str or
    int}`), validation and test (a record per image, `{"image": str, "caption": [str, ...]}`) and calibration
    (`{"image": str, "caption": str, "dataset": str}`). Captions of one `image_id` are gathered; without one the path of
    the image is its identity.

    Raises:
        ValueError: no such file, no JSON list, an empty one, or a record that is wrong.
    """
    captions: dict[str, list[str]] = {}
    images: dict[str, str] = {}
    for identity, image, texts in _parsed(Path(path), _captioned):
        if images.setdefault(identity, image) != image:
            raise ValueError(
                f"{path}: image_id {identity!r} is given to {images[identity]} and {image}; give each its own"
            )
        captions.setdefault(identity, []).extend(texts)
    return [CaptionedImage(images[i], tuple(texts), i) for i, texts in captions.items()]


def read_regions(path: str | Path, size: Size) -> list[RegionImage]:
    """Visual Genome's regions as X-VLM wrote them: `{"image": str, "elems": [{"caption": str, "bb": [x, y, w, h]}]}`.

    An element may carry `attributes`, put before its caption, and captions may be lists; a record may have a `caption`
    of the whole image. Regions that are not wholly inside their image are dropped and counted, as are images left
    without one.

    Args:
        path: the JSON file.
        size: asked for an image whose record has no `width` and `height`.

    Raises:
        ValueError: no such file, no JSON list, an empty one, a record that is wrong, or no region left.
    """
    kept: list[RegionImage] = []
    dropped = 0
    for image, frame, regions in _parsed(Path(path), lambda record: _regional(record, size)):
        fitting = tuple(r for r in regions if _fits(r.box, frame))
        dropped += len(regions) - len(fitting)
        if fitting:
            kept.append(RegionImage(image, fitting, frame))
    if dropped:
        _log.warning("%s: left out %d regions that are not inside their image", path, dropped)
    if not kept:
        raise ValueError(f"{path}: no region lies inside its image; boxes are [x, y, width, height] in pixels")
    return kept


def _parsed(path: Path, parse: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Every record of a file, parsed; what `parse` rejects gets the file and the number."""
    for number, record in enumerate(_load(path)):
        try:
            if not isinstance(record, dict):
                raise BadRecord(f"is a {type(record).__name__}, not an object with keys")
            yield parse(record)
        except ValueError as error:
            raise ValueError(f"{path}, record {number}: {error}") from None


def _load(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}): is paths.data the folder it should be in?") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); is the download complete?") from None
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} must be a JSON list of at least one record, got {_kind(found)}")
    return found


def _kind(found: object) -> str:
    return "an empty list" if isinstance(found, list) else f"a {type(found).__name__}"


def _captioned(record: dict[str, Any]) -> tuple[str, str, list[str]]:
    image = _image(record)
    identity = record.get("image_id", image)
    if not isinstance(identity, str | int):
        raise BadRecord(f"'image_id' must be a string or a whole number, got {identity!r}")
    return str(identity), image, _texts(record, "caption")


def _regional(record: dict[str, Any], size: Size) -> tuple[str, tuple[int, int], list[RegionCaption]]:
    image = _image(record)
    frame = (record["width"], record["height"]) if {"width", "height"} <= record.keys() else size(image)
    if not all(isinstance(n, int) and n > 0 for n in frame):
        raise BadRecord(f"'width' and 'height' must be pixels above 0, got {list(frame)}")
    elements = record.get("elems")
    if not isinstance(elements, list) or not all(isinstance(e, dict) for e in elements):
        raise BadRecord("'elems' must be a list of objects with 'caption' and 'bb'")
    regions = [region for element in elements for region in _element(element)]
    if "caption" in record:
        whole = (0.0, 0.0, float(frame[0]), float(frame[1]))
        regions += [RegionCaption(text, whole) for text in _texts(record, "caption")]
    return image, frame, regions


def _element(element: dict[str, Any]) -> Iterator[RegionCaption]:
    """The captions of one box, each after one of its attributes, taken in turn."""
    box = _box(element)
    attributes = _texts(element, "attributes") if element.get("attributes") else [""]
    for i, caption in enumerate(_texts(element, "caption")):
        yield RegionCaption(f"{attributes[i % len(attributes)]} {caption}".strip(), box)


def _image(record: dict[str, Any]) -> str:
    image = record.get("image")
    if not isinstance(image, str):
        raise BadRecord(f"needs 'image', the path of the image, got {image!r}")
    inside(image)
    return image


def _texts(record: dict[str, Any], key: str) -> list[str]:
    """One string or a list of them, none without a letter or digit."""
    found = record.get(key)
    texts: list[Any] = found if isinstance(found, list) else [found]
    if not texts or not all(isinstance(t, str) and any(c.isalnum() for c in t) for t in texts):
        raise BadRecord(f"needs {key!r}, a text or a list of texts with at least one word each, got {found!r}")
    return texts


def _box(element: dict[str, Any]) -> Box:
    box = element.get("bb")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(n, int | float) for n in box):
        raise BadRecord(f"needs 'bb', [x, y, width, height] in pixels, got {box!r}")
    x, y, w, h = map(float, box)
    return x, y, w, h


def _fits(box: Box, frame: tuple[int, int]) -> bool:
    x, y, w, h = box
    return min(x, y) >= 0 and min(w, h) > 0 and x + w <= frame[0] and y + h <= frame[1]
