"""Bytes to images: decoding that refuses what it cannot trust, and paths that stay below their folder."""

import io
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

Size = tuple[int, int]
"""Width and height in pixels."""
Least = Callable[[Size], Size]
"""Size of an image -> the smallest size it may be decoded at."""
MOST_PIXELS = 2**27
"""Larger images are refused: a small file can claim any size and fill the memory when it is decoded."""

ORIENTATIONS = ("upright", "compat")
"""Whether EXIF's orientation is obeyed, or an image is shown as it is stored, as the released code does."""
KINDS = "kinds"
"""Where an opened image says what it was: `image.info[KINDS]`."""
TRANSPARENT, DEEP, FLOATS = "transparent, shown on white", "16-bit, scaled to 8", "float, scaled from 0..1 to 8 bits"
CMYK, GREY, TURNED, STORED = "CMYK", "grey", "turned upright by EXIF", "left as stored, EXIF turns them"
FRAMES = "of several frames, the first is shown"
_SEVERAL = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats of files that may hold several images, one after the other; those of a phone's JPEG are one."""
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what makes an image upright; from 5 on it exchanges width and height."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class BrokenImage(ValueError):
    """An image that is absent, damaged or too large to be trusted; `place` says which."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def decode(path: Path, least: Least | None = None, *, upright: bool = True) -> Image.Image:
    """The image in a file, RGB: what is transparent on white, 16-bit grey scaled to 8 bits, floats from 0 to 1 too.

    Args:
        path: of the file.
        least: what size suffices. A JPEG at least twice as large is decoded at a half, quarter or eighth of its size,
            never below it: much cheaper, and no more is lost than in the resizing that follows.
        upright: whether EXIF's orientation is obeyed.

    Raises:
        BrokenImage: the file is absent, no image, damaged, has more than MOST_PIXELS pixels, or numbers of no known
            range (32-bit integers, floats outside 0 to 1).
    """
    try:
        with open(path, "rb") as file:
            return _decoded(file, str(path), least, upright)
    except FileNotFoundError:
        raise BrokenImage(
            f"there is no image {path}: are the data complete, and is their folder right?", str(path)
        ) from None
    except OSError as error:
        raise _broken(str(path), error) from None


def decode_bytes(content: bytes, place: str, least: Least | None = None, *, upright: bool = True) -> Image.Image:
    """As `decode`, of bytes that came from `place` (a member of an archive, a row of a table)."""
    return _decoded(io.BytesIO(content), place, least, upright)


def checked_orientation(given: str) -> bool:
    """Whether images are turned upright; ValueError for a word that is not in ORIENTATIONS."""
    if given not in ORIENTATIONS:
        raise ValueError(f"data.source.orientation={given}: it is one of {', '.join(ORIENTATIONS)}")
    return given == "upright"


def _decoded(file: BinaryIO, place: str, least: Least | None, upright: bool) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of size, which is checked here
            _check_png(file)
            with Image.open(file) as image:
                if math.prod(image.size) > MOST_PIXELS:
                    raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, at most {MOST_PIXELS} are decoded")
                turn = _orientation(image)
                if least is not None:
                    _draft(image, least, exchanged=upright and turn >= 5)
                if image.format == "JPEG" and image.mode == "RGB" and turn == 1:
                    image.load()
                    return image  # as it was decoded: `convert` would copy it
                return _turned(_rgb(image), turn, upright)
    except _UNREADABLE as error:
        raise _broken(place, error) from None


def _check_png(file: BinaryIO) -> None:
    """Raise ValueError for a PNG of which a part is not what was written: PIL looks at no checksum of pixels."""
    is_png = file.read(8) == b"\x89PNG\r\n\x1a\n"
    while is_png and (head := file.read(8)):
        content = head[4:] + file.read(int.from_bytes(head[:4]))
        if zlib.crc32(content) != int.from_bytes(file.read(4)):
            raise ValueError(f"its part {head[4:]!r} is not what was written")
        if head[4:] == b"IEND":
            break
    file.seek(0)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) where there is none or it cannot be read. A TIFF is turned by PIL itself."""
    if image.format == "TIFF" or (image.format == "JPEG" and "exif" not in image.info):
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _UNREADABLE:
        return 1  # odd metadata do not break an image
    return found if found in _TURNS else 1


def _exchanged(size: Size) -> Size:
    return size[1], size[0]


def _draft(image: Image.Image, least: Least, *, exchanged: bool) -> None:
    """Decode no larger than `least` asks of the image as it will stand."""
    if exchanged:
        image.draft(image.mode, _exchanged(least(_exchanged(image.size))))
    else:
        image.draft(image.mode, least(image.size))


def _turned(image: Image.Image, turn: int, upright: bool) -> Image.Image:
    if turn == 1:
        return image
    kinds = (*image.info.get(KINDS, ()), TURNED if upright else STORED)
    turned = image.transpose(_TURNS[turn]) if upright else image
    turned.info[KINDS] = kinds
    return turned


def _rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, which says in `info` what it was."""
    frames = (FRAMES,) if image.format in _SEVERAL and getattr(image, "is_animated", False) else ()
    kinds = {"CMYK": (CMYK,), "L": (GREY,), "LA": (GREY,), "1": (GREY,)}.get(image.mode, ())
    if image.mode in _SIXTEEN or image.mode in ("I", "F"):
        kinds, shown = (FLOATS if image.mode == "F" else DEEP,), _scaled(image)
    elif image.has_transparency_data:
        seen = image.convert("RGBA")
        kinds = (*kinds, TRANSPARENT) if seen.getchannel("A").getextrema()[0] != 255 else kinds
        shown = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    else:
        shown = image.convert("RGB")
    shown.info[KINDS] = (*kinds, *frames)
    return shown


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of 16 bits or of floats from 0 to 1 as 8 bits."""
    values = np.asarray(image)
    if image.mode == "I" and image.format != "PNG":  # PNG's go to 65,535, whatever PIL calls them
        raise ValueError("its pixels are 32-bit numbers of no known range; save it with 8 or 16 bits")
    if image.mode != "F":
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"its pixels are floats from {values.min():g} to {values.max():g}, not 0 to 1; save it as 8-bit"
        )
    return Image.fromarray(np.round(values * 255).astype(np.uint8)).convert("RGB")


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

    Args:
        root: the folder.
        also: where else to look.
        upright: whether EXIF's orientation is obeyed.

    Raises:
        ValueError: there is no such folder.
    """

    drafts = True

    def __init__(self, root: str | Path, also: Sequence[str] = (), *, upright: bool = True) -> None:
        self.root, self.also, self.upright = Path(root), tuple(also), upright
        if not self.root.is_dir():
            raise ValueError(f"there is no image folder {self.root}: give the folder the annotations' paths start from")

    def open(self, key: str, least: Least | None = None) -> Image.Image:
        """The RGB image of a key; `least` as in `decode`.

        Raises:
            ValueError: the key leaves the folder. BrokenImage: its file cannot be decoded.
        """
        return decode(self.path(key), least, upright=self.upright)

    def size(self, key: str) -> tuple[int, int]:
        """(width, height) in pixels, read from the header alone; ValueError as `open`."""
        path = self.path(key)
        try:
            with Image.open(path) as image:
                return _exchanged(image.size) if self.upright and _orientation(image) >= 5 else image.size
        except _UNREADABLE as error:
            raise _broken(str(path), error) from None

    def path(self, key: str) -> Path:
        """Where the image of a key lies, or would lie."""
        places = self._places(key)
        first = next(places)
        if not self.also or first.exists():
            return first
        return next((other for other in places if other.exists()), first)

    def lacking(self, keys: Iterable[str]) -> list[str]:
        """The keys whose images are not there; every folder is listed once, for images are many."""
        listed = cache(_names)

        def there(path: Path) -> bool:
            return path.name in listed(path.parent) or path.exists()  # some systems take other letters for the same

        return [key for key in keys if not any(map(there, self._places(key)))]

    def _places(self, key: str) -> Iterator[Path]:
        """One at a time: nearly every image lies in the first."""
        below = inside(key)
        yield self.root / below
        yield from (self.root / folder / below.name for folder in self.also)


def _names(folder: Path) -> frozenset[str]:
    """What lies in a folder; nothing where there is none."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
