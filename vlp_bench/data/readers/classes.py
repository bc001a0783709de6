"""Images by class: ImageNet's folders, CoOp's splits, FGVC Aircraft's and DINO's lists, CIFAR's binary archives."""

import csv
import logging
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from vlp_bench.data.readers import checked
from vlp_bench.data.readers.image_files import SUFFIXES, folders_in, hidden, images_below, is_image
from vlp_bench.data.records import LabelledImage, LabelledImages
from vlp_bench.data.transforms.decoding import BrokenImage
from vlp_bench.spelling import count_of

_log = logging.getLogger(__name__)


def read_folders(path: str | Path, names: str | Path | None = None) -> LabelledImages:
    """`<class>/<image>` below `path`, as ImageNet is kept; classes are numbered in the order of their folders' names.

    Hidden folders are no classes. What else is left out, and a class without an image, is told by a warning.

    Args:
        path: the folder of one split, e.g. imagenet/train; records' paths start there.
        names: what the classes are called: CoOp's classnames.txt ("n01440764 tench") or MULTIFLOW's metadata.csv
            (`folder_name,class_name`); without it they are called as their folders.

    Raises:
        ValueError: no such folder, no images in it, or a folder that `names` does not know.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}: give the one that holds a folder for every class")
    folders = [folder.name for folder in folders_in(path)]
    called = _class_names(Path(names)) if names is not None else {folder: folder for folder in folders}
    if unknown := [folder for folder in folders if folder not in called]:
        raise ValueError(
            f"{names} does not say how {len(unknown)} classes are called, the first is {unknown[0]}: it needs a line "
            f"for every folder ('{unknown[0]} NAME'), or a CSV table with folder_name,class_name"
        )
    listed = {folder: sorted((path / folder).iterdir()) for folder in folders}
    records = tuple(
        LabelledImage(f"{folder}/{image.name}", label)
        for label, folder in enumerate(folders)
        for image in listed[folder]
        if is_image(image.name)
    )
    told = list(_left_out(path, listed))
    if not records:
        raise ValueError("; ".join([f"{path} holds no <class>/<image>; images end with {', '.join(SUFFIXES)}", *told]))
    for line in told:
        _log.warning("%s: %s", path, line)
    return LabelledImages(records, tuple(called[folder] for folder in folders))


def _left_out(path: Path, listed: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """A line for each kind of what is no image of a class. `listed`: class folder -> what lies in it."""
    silent = [folder for folder, files in listed.items() if not any(is_image(file.name) for file in files)]
    if silent and len(silent) < len(listed):
        yield f"{count_of(len(silent), 'class folder')} without an image, a class all the same: {checked.some(silent)}"
    inner = [file for files in listed.values() for file in files if not is_image(file.name) and not hidden(file.name)]
    deep = [str(image.relative_to(path)) for folder in inner if folder.is_dir() for image in images_below(folder)]
    if deep:
        yield f"left out {count_of(len(deep), 'image')} deeper than <class>/<image>, the first is {deep[0]}"
    if others := [str(file.relative_to(path)) for file in inner if file.is_file()]:
        yield f"left out {count_of(len(others), 'file')} whose names end as no image's, the first is {others[0]}"


def _class_names(path: Path) -> dict[str, str]:
    if path.suffix == ".csv":
        rows = _table(path, "folder_name", "class_name")
        return checked.unique(path, ((row["folder_name"], row["class_name"]) for row in rows), "the folder")
    pairs = [line.split(maxsplit=1) for line in checked.lines(path)]
    if not all(len(pair) == 2 for pair in pairs):
        raise ValueError(f"{path}: every line must be a folder and a name, e.g. 'n01440764 tench'")
    return checked.unique(path, ((folder, name) for folder, name in pairs), "the folder")


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file with at least these columns."""
    head, *rows = (_cells(path, number, line) for number, line in enumerate(checked.lines(path), 1))
    if not rows or len({*head}) < len(head) or not {*columns} <= {*head} or any(len(row) != len(head) for row in rows):
        raise ValueError(f"{path} must be a CSV table whose rows have {','.join(columns)}")
    if again := len(rows) - len({*map(tuple, rows)}):
        _log.warning("%s: %d of its %d rows stand in it twice", path, again, len(rows))
    return [dict(zip(head, row, strict=True)) for row in rows]


def _cells(path: Path, number: int, line: str) -> list[str]:
    """A line's cells, none of which goes on in the next line."""
    try:
        [cells] = csv.reader([line], strict=True)
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    return cells


def read_coop(path: str | Path, split: str) -> LabelledImages:
    """One split of CoOp's `split_zhou_<Set>.json`: `{"train": [[path, label, class name], ...], "val", "test"}`.

    Raises:
        ValueError: no such file, another format, a wrong entry, or a label with two names or none.
    """
    path = Path(path)
    content = checked.load(path)
    parts = {s: checked.objects(path, checked.part(path, content, s)) for s in ("train", "val", "test")}
    if split not in parts:
        raise ValueError(f"CoOp's files have the splits {', '.join(parts)}, got {split!r}")
    entries = {s: list(checked.parsed(path, map(_entry, listed), _labelled)) for s, listed in parts.items()}
    names = _numbered(path, (pair for listed in entries.values() for pair in listed))
    return LabelledImages(tuple(image for image, _ in entries[split]), names)


def _entry(found: object) -> object:
    """A triple as an object with keys, so that it is checked like one."""
    return dict(zip(("image", "label", "name"), found)) if isinstance(found, list) else found


def _labelled(record: checked.Record) -> tuple[LabelledImage, str]:
    return LabelledImage(checked.image(record), checked.number(record, "label")), checked.text(record, "name")


def _numbered(path: Path, labelled: Iterable[tuple[LabelledImage, str]]) -> tuple[str, ...]:
    """The names of labels 0 to n-1."""
    names: dict[int, str] = {}
    for image, name in labelled:
        if names.setdefault(image.label, name) != name:
            called = f"{checked.brief(names[image.label])} and {checked.brief(name)}"
            raise ValueError(f"{path}: class {image.label} is called {called}")
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path}: labels must be 0 to {len(names) - 1} for its {len(names)} classes, got {max(names)}")
    return tuple(names[label] for label in range(len(names)))


def read_aircraft(path: str | Path, split: str) -> LabelledImages:
    """FGVC Aircraft's `images_variant_<split>.txt` ("0034309 707-320") in folder `path`; `variants.txt` numbers them.

    Raises:
        ValueError: a file is missing, or a line names no variant.
    """
    folder = Path(path)
    names = checked.lines(folder / "variants.txt")
    label = checked.unique(folder / "variants.txt", ((name, i) for i, name in enumerate(names)), "the variant")

    def read(record: checked.Record) -> LabelledImage:
        if record["name"] not in label:
            raise checked.BadRecord(f"variants.txt does not have {record['name']!r}")
        return LabelledImage(checked.image(record), label[record["name"]])

    source = folder / f"images_variant_{split}.txt"
    parts = (line.partition(" ") for line in checked.lines(source))
    records = ({"image": f"images/{image}.jpg", "name": name} for image, _, name in parts)
    return LabelledImages(tuple(checked.parsed(source, records, read)), tuple(names))


def read_listed(path: str | Path, splits: Sequence[str]) -> LabelledImages:
    """MULTIFLOW's Flowers102: `annots/split.csv` (`filename,split,class`) and `annots/metadata.csv` (`idx,class_name`).

    Args:
        path: the data set's folder; records' paths start with images/.
        splits: which to join; the papers train on ("train", "val").

    Raises:
        ValueError: a file is missing or lacks a column, or a class has no name.
    """
    folder = Path(path) / "annots"
    rows = _table(folder / "split.csv", "filename", "split", "class")
    named = _table(folder / "metadata.csv", "idx", "class_name")
    called = checked.unique(folder / "metadata.csv", ((row["idx"], row["class_name"]) for row in named), "the class")
    classes = sorted({row["class"] for row in rows}, key=lambda c: (len(c), c))
    if unknown := [c for c in classes if c not in called]:
        raise ValueError(f"{folder / 'metadata.csv'} has no name for class {unknown[0]} of split.csv")
    label = {c: number for number, c in enumerate(classes)}
    if odd := [row["split"] for row in rows if row["split"] not in {"train", "val", "test", *splits}]:
        raise ValueError(f"{folder / 'split.csv'} has a split {odd[0]!r}; known are train, val and test")
    found = tuple(
        LabelledImage(checked.image({"image": f"images/{row['filename']}"}), label[row["class"]])
        for row in rows
        if row["split"] in splits
    )
    if not found:
        raise ValueError(f"{folder / 'split.csv'} has no image of {', '.join(splits)}")
    return LabelledImages(found, tuple(called[c] for c in classes))


class Cifar:
    """CIFAR-10 or CIFAR-100 in its binary version: the .tar.gz archive or the folder unpacked from it.

    It reads the records of both splits at once (180 MB) and is their image source. The Python version is a pickle,
    which can run any program when it is read, and is refused.

    Raises:
        ValueError: no such archive or folder, the Python version, a file missing or of a wrong size.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        files = self._files()
        if "batches.meta.txt" in files:
            extra, train = 1, [f"data_batch_{i}.bin" for i in range(1, 6)]
            names, test = "batches.meta.txt", ["test_batch.bin"]
        else:
            extra, train, names, test = 2, ["train.bin"], "fine_label_names.txt", ["test.bin"]
        if missing := [name for name in (names, *train, *test) if name not in files]:
            raise ValueError(f"{self.path} lacks {missing[0]}; is it the whole binary version of CIFAR?")
        self.names = tuple(line for line in files[names].decode("utf-8", "replace").split() if line)
        self._rows = {"train": self._joined(files, train, extra), "test": self._joined(files, test, extra)}
        self._extra = extra

    def labelled(self, split: str) -> LabelledImages:
        """The images of "train" or "test"; CIFAR-100's labels are the hundred fine ones."""
        if split not in self._rows:
            raise ValueError(f"CIFAR has the splits train and test, got {split!r}")
        labels = self._rows[split][:, self._extra - 1].tolist()
        if max(labels) >= len(self.names):
            raise ValueError(f"{self.path}: label {max(labels)} has no name; {len(self.names)} classes have one")
        return LabelledImages(tuple(LabelledImage(f"{split}/{i}", c) for i, c in enumerate(labels)), self.names)

    def open(self, key: str) -> Image.Image:
        """The 32 x 32 RGB image of a key (`<split>/<number>`)."""
        split, _, number = key.partition("/")
        rows = self._rows.get(split, np.empty((0, 0), np.uint8))
        if not number.isdecimal() or int(number) >= len(rows):
            raise BrokenImage(f"there is no image {key!r} in {self.path}: it has train/0 and on, test/0 and on", key)
        pixels = rows[int(number), self._extra :].reshape(3, 32, 32)
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))

    def _joined(self, files: dict[str, bytes], names: list[str], extra: int) -> np.ndarray:
        for name in names:
            if len(files[name]) % (extra + 3072):
                raise ValueError(f"{self.path}: {name} has a wrong size; every image takes {extra + 3072} bytes")
        if not any(files[name] for name in names):
            raise ValueError(f"{self.path}: {names[0]} holds no image; fetch it again")
        rows = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, extra + 3072)
        if again := len(rows) - len({row.tobytes() for row in rows}):
            _log.warning("%s: %d images of %s stand in it twice", self.path, again, ", ".join(names))
        return rows

    def _files(self) -> dict[str, bytes]:
        try:
            found = self._unpacked() if self.path.is_dir() else self._archived()
        except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
            raise ValueError(f"cannot read CIFAR from {self.path}: {' '.join(str(error).split())}") from None
        if not any(name.endswith(".bin") for name in found):
            raise ValueError(
                f"{self.path} is not the binary version of CIFAR; its Python version is a pickle, which is never read: "
                "take cifar-10-binary.tar.gz or cifar-100-binary.tar.gz"
            )
        return found

    def _unpacked(self) -> dict[str, bytes]:
        files = [*self.path.rglob("*.bin"), *self.path.rglob("*.txt")]
        return checked.unique(self.path, ((file.name, file.read_bytes()) for file in files), "the file")

    def _archived(self) -> dict[str, bytes]:
        with tarfile.open(self.path, "r:*") as archive:
            wanted = [m for m in archive if m.isreg() and m.name.endswith((".bin", ".txt")) and m.size < 2**28]
            read = [(Path(m.name).name, _content(archive.extractfile(m))) for m in wanted]
            while archive.fileobj is not None and archive.fileobj.read(2**20):
                continue  # to the end, where a compressed file has its checksum
        return checked.unique(self.path, read, "the member")


def _content(file: IO[bytes] | None) -> bytes:
    assert file is not None, "only regular files are asked for"
    with file:
        return file.read()
