"""What img2dataset writes, webdataset tars or folders of `<key>.{jpg,json,txt}`, and Hugging Face's parquet tables.

Archives are read where they lie; nothing is unpacked, so no member can be written anywhere.
"""

import logging
import tarfile
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from vlp_bench.data.readers import checked
from vlp_bench.data.readers.image_files import images_below, is_image
from vlp_bench.data.readers.split_names import is_of
from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.transforms.decoding import BrokenImage, Folder, Least, decode_bytes, inside
from vlp_bench.spelling import count_of

MOST_BYTES = 2**26
"""Larger members are refused."""
Member = tuple[int, int]
"""Where the bytes of a file begin in its archive, and how many there are."""

_log = logging.getLogger(__name__)


class Shards:
    """The tars of a folder, or one tar, as records and image source. A key is `<tar>/<member>`.

    Raises:
        ValueError: no such file or folder, or no tar in it.
    """

    drafts = True

    def __init__(self, path: str | Path, *, upright: bool = True) -> None:
        path, self.upright = Path(path), upright
        self.root = path if path.is_dir() else path.parent
        self.tars = sorted(path.glob("*.tar")) if path.is_dir() else [path] if path.is_file() else []
        if not self.tars:
            raise ValueError(f"{path} holds no .tar; give the folder img2dataset wrote its shards to")

    @cached_property
    def members(self) -> dict[str, dict[str, Member]]:
        """Tar -> name -> place, of every regular file that stays inside; headers alone are read.

        Raises:
            ValueError: a tar is cut off or damaged, goes on after its end, or stores a name twice.
        """
        return {tar.name: _members(tar) for tar in self.tars}

    def captions(self) -> list[CaptionedImage]:
        """Every image with its caption, in the order of the shards. Those without a word are left out and counted."""
        return _spoken(self.root, self._triplets())

    def open(self, key: str, least: Least | None = None) -> Image.Image:
        """The RGB image of a key; BrokenImage if there is none, or it cannot be decoded."""
        tar, _, name = str(inside(key)).partition("/")
        place = self.members.get(tar, {}).get(name)
        if place is None:
            raise BrokenImage(f"there is no image {key} in {self.root}", str(self.root / key))
        content = _bytes(self.root / tar, place)
        return decode_bytes(content, f"{self.root / tar}: {name}", least, upright=self.upright)

    def size(self, key: str) -> tuple[int, int]:
        """(width, height) in pixels; decodes the image."""
        return self.open(key).size

    def _triplets(self) -> Iterator[tuple[str, str]]:
        for tar, members in self.members.items():
            for name in members:
                stem = name.rpartition(".")[0]
                if is_image(PurePosixPath(name).name):
                    yield f"{tar}/{name}", self._caption(tar, members, stem)

    def _caption(self, tar: str, members: Mapping[str, Member], stem: str) -> str:
        for kind in ("json", "txt"):
            place = members.get(f"{stem}.{kind}")
            if place is not None:
                return _caption_of(f"{self.root / tar}: {stem}.{kind}", _bytes(self.root / tar, place))
        return ""


def _members(tar: Path) -> dict[str, Member]:
    try:
        with tarfile.open(tar, "r:") as archive:
            listed = list(archive)
            _check_end(tar, archive.offset)
        kept = [m for m in listed if m.isreg() and m.size <= MOST_BYTES]
        if left := len([m for m in listed if not m.isdir()]) - len(kept):
            _log.warning("%s: left out %s, links or larger than %d bytes", tar, count_of(left, "member"), MOST_BYTES)
        return checked.unique(tar, ((_name(m.name), (m.offset_data, m.size)) for m in kept), "the member")
    except (OSError, EOFError, ValueError, OverflowError, tarfile.TarError) as error:
        raise ValueError(f"cannot read {tar} ({error}); shards are uncompressed tars of regular files") from None


def _check_end(tar: Path, offset: int) -> None:
    """Raise ValueError unless the last member is followed by zeros alone: tarfile ends without a word at any fault."""
    with open(tar, "rb") as file:
        file.seek(offset)
        mark = file.read(tarfile.BLOCKSIZE)
        if len(mark) < tarfile.BLOCKSIZE:
            raise ValueError("it is cut off: no end mark follows its last whole member; fetch it again")
        if any(mark):
            raise ValueError(f"what follows byte {offset} is no header; it is damaged, fetch it again")
        while rest := file.read(2**20):
            if any(rest):
                raise ValueError(f"more follows its end mark at byte {offset}; were tars joined? Keep them apart")


def _name(name: str) -> str:
    return str(inside(name))


def _bytes(tar: Path, place: Member) -> bytes:
    try:
        with open(tar, "rb") as file:
            file.seek(place[0])
            return file.read(place[1])
    except OSError as error:
        raise ValueError(f"cannot read {tar}: {error.strerror}") from None


def _caption_of(place: str, content: bytes) -> str:
    """The caption in a .json (`{"caption": ...}`) or .txt; "" where it says none."""
    try:
        text = content.decode("utf-8")
        found = checked.decoded(text) if place.endswith(".json") else text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} cannot be read: {error}") from None
    said = found.get("caption") if isinstance(found, dict) else found
    return said if isinstance(said, str) else ""


def _spoken(root: Path, found: Iterator[tuple[str, str]]) -> list[CaptionedImage]:
    """Records of the (image, caption) pairs whose caption can be used."""
    pairs = list(found)
    records = [CaptionedImage(image, (caption,), image) for image, caption in pairs if checked.worded(caption)]
    if len(records) < len(pairs):
        _log.warning("%s: left out %d of %d images without a caption", root, len(pairs) - len(records), len(pairs))
    if not records:
        raise ValueError(f"{root} holds no image with a caption; img2dataset writes <key>.jpg beside <key>.json")
    return records


def read_triplets(path: str | Path) -> list[CaptionedImage]:
    """What img2dataset writes as `files`: folders of `<key>.jpg` with `<key>.json` or `<key>.txt` beside them.

    Raises:
        ValueError: no such folder, or no image with a caption in it.
    """
    root = Folder(path).root
    return _spoken(root, ((p.relative_to(root).as_posix(), _beside(p)) for p in images_below(root)))


def _beside(image: Path) -> str:
    for kind in (".json", ".txt"):
        file = image.with_suffix(kind)
        if file.is_file():
            return _caption_of(str(file), file.read_bytes())
    return ""


class Parquet:
    """Hugging Face's parquet tables with an `image` column (bytes) and captions, as records and image source.

    Captions are in `caption`, `captions`, `sentences` or `text` (a string or a list), or `caption_0` to `caption_4`.
    A key is `<file>/<row>`. Needs pyarrow.

    Raises:
        ValueError: pyarrow is not installed, no table there, or one that lacks these columns.
    """

    COLUMNS = ("caption", "captions", "sentences", "text", *(f"caption_{i}" for i in range(5)))

    drafts = True

    def __init__(self, path: str | Path, split: str | None = None, *, upright: bool = True) -> None:
        path, self.upright = Path(path), upright
        self.root = path if path.is_dir() else path.parent
        tables = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        self.files = [f for f in tables if f.is_file() and (f == path or not split or is_of(f.stem, split))]
        if not self.files:
            there = f", only {checked.some(file.name for file in tables)}" if path.is_dir() and tables else ""
            raise ValueError(f"{path} holds no {split or ''}*.parquet{there}; give a table or a folder of tables")
        self._table = lru_cache(maxsize=4)(self._row_group)

    def captions(self) -> list[CaptionedImage]:
        """Every row with its captions, in order."""
        return [record for file in self.files for record in self._records(file)]

    def _records(self, file: Path) -> Iterator[CaptionedImage]:
        table = self._opened(file)
        columns = [c for c in self.COLUMNS if c in table.schema_arrow.names]
        if not columns or "image" not in table.schema_arrow.names:
            raise ValueError(f"{file} needs the column 'image' and one of {', '.join(self.COLUMNS)}")
        rows = table.read(columns=columns).to_pylist()
        for number, texts in enumerate(checked.parsed(file, rows, _row_captions)):
            key = f"{file.name}/{number}"
            yield CaptionedImage(key, tuple(texts), key)

    def open(self, key: str, least: Least | None = None) -> Image.Image:
        """The RGB image of a row; BrokenImage if there is none."""
        name, _, number = str(inside(key)).partition("/")
        row = self._table(name, int(number)) if number.isdecimal() else None
        content = row.get("bytes") if isinstance(row, dict) else row
        if not isinstance(content, bytes):
            raise BrokenImage(f"there is no image {key} in {self.root}", key)
        return decode_bytes(content, str(self.root / key), least, upright=self.upright)

    def _row_group(self, name: str, number: int) -> Any:
        table = self._opened(self.root / name)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if number < rows:
                return table.read_row_group(group, columns=["image"]).column("image")[number].as_py()
            number -= rows
        return None

    @staticmethod
    def _opened(file: Path) -> Any:
        try:
            from pyarrow import parquet  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError(f"reading {file} needs pyarrow: pip install 'vlp_bench[parquet]'") from None
        try:
            return parquet.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {file}: {error}") from None


def _row_captions(row: dict[str, Any]) -> list[str]:
    texts = [t for found in row.values() for t in (found if isinstance(found, list) else [found])]
    said = [t.get("raw") if isinstance(t, dict) else t for t in texts if t is not None]
    return checked.texts({"caption": said}, "caption")
