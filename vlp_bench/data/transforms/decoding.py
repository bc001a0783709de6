"""Bytes to images: decoding that refuses what it cannot trust, and paths that stay below their folder."""

import io
import math
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""
Least = Callable[[Size], Size]
"""Size of an image -> the smallest size it may be decoded at."""
MOST_PIXELS = 2**27
"""Larger images are refused: a small file can claim any size and fill the memory when it is decoded."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class BrokenImage(ValueError):
    """An image that is absent, damaged or too large to be trusted; `place` says which."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def decode(path: Path, least: Least | None = None) -> Image.Image:
    """The image in a file, RGB.

    `least`: what size suffices. A JPEG at least twice as large is decoded at a half, quarter or eighth of its size,
    never below it: much cheaper, and no more is lost than in the resizing that follows.

    Raises:
        BrokenImage: the file is absent, no image, damaged, or has more than MOST_PIXELS pixels.
    """
    try:
        with open(path, "rb") as file:
            return _decoded(file, str(path), least)
    except FileNotFoundError:
        raise BrokenImage(f"there is no image {path}: is the data complete, and paths.data right?", str(path)) from None
    except OSError as error:
        raise _broken(str(path), error) from None


def decode_bytes(content: bytes, place: str, least: Least | None = None) -> Image.Image:
    """As `decode`, of bytes that came from `place` (a member of an archive, a row of a table)."""
    return _decoded(io.BytesIO(content), place, least)


def _decoded(file: BinaryIO, place: str, least: Least | None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of size, which is checked here
            with Image.open(file) as image:
                if math.prod(image.size) > MOST_PIXELS:
                    raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, at most {MOST_PIXELS} are decoded")
                if least is not None:
                    image.draft(image.mode, least(image.size))
                if image.format == "JPEG" and image.mode == "RGB":
                    image.load()
                    return image  # as it was decoded: `convert` would copy it
                return image.convert("RGB")
    except _UNREADABLE as error:
        raise _broken(place, error) from None


def _broken(place: str, error: BaseException) -> BrokenImage:
    return BrokenImage(f"cannot read the image {place}: {error}; replace the file or drop its records", place)


def inside(key: str) -> PurePosixPath:
    """A key as a path that stays below whatever folder it is joined to.

    Raises:
        ValueError: the key is empty, absolute, climbs with "..", or holds a character no path of ours has.
    """
    path = PurePosixPath(key)
    odd = any(c in key for c in "\\\0:") or re.search("[\ud800-\udfff]", key) or len(key) > 1000
    if not path.parts or path.is_absolute() or ".." in path.parts or odd:
        raise ValueError(f"{key[:200]!r} is not a path below the image folder (relative, without '..', ':' and '\\\\')")
    return path


class Folder:
    """Images below one folder, by relative path. Links the owner of the folder put into it are followed.

    A path that is not there is looked for by its name alone in `also`, folders below the root: VG_100K and VG_100K_2,
    train2014 and val2014.

    Raises:
        ValueError: there is no such folder.
    """

    drafts = True

    def __init__(self, root: str | Path, also: Sequence[str] = ()) -> None:
        self.root, self.also = Path(root), tuple(also)
        if not self.root.is_dir():
            raise ValueError(f"there is no image folder {self.root}: give the folder the annotations' paths start from")

    def open(self, key: str, least: Least | None = None) -> Image.Image:
        """The RGB image of a key; `least` as in `decode`.

        Raises:
            ValueError: the key leaves the folder. BrokenImage: its file cannot be decoded.
        """
        return decode(self._path(key), least)

    def size(self, key: str) -> tuple[int, int]:
        """(width, height) in pixels, read from the header alone; ValueError as `open`."""
        path = self._path(key)
        try:
            with Image.open(path) as image:
                return image.size
        except _UNREADABLE as error:
            raise _broken(str(path), error) from None

    def _path(self, key: str) -> Path:
        below = inside(key)
        path = self.root / below
        if not self.also or path.exists():
            return path
        others = (self.root / folder / below.name for folder in self.also)
        return next((other for other in others if other.exists()), path)
