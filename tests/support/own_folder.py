"""Folders of pictures as somebody might have them: odd files, a word nobody has heard of, in every form that is read.

python -m tests.support.own_folder FOLDER [FORM]     300 pictures with captions, or as FORM of `FORMS`
"""

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageDraw

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle")
ODD = ("CMYK.jpg", "turned.jpg", "clear.png", "deep.png", "plain.jpg")
SPLITS = ("train", "val", "test")
ASKED = "what color is the {}"


@dataclass(frozen=True)
class Picture:
    """A file below images/, what it shows, and the split it is in."""

    number: int
    name: str
    shape: str
    colour: str
    split: str

    @property
    def texts(self) -> list[str]:
        return [f"a {self.colour} {self.shape}", f"there is a {self.colour} {self.shape}"]


def drawn(shape: str, colour: str, place: int) -> Image.Image:
    """One shape of one colour at one of 25 places on grey, 40 x 32."""
    image = Image.new("RGB", (40, 32), (128, 128, 128))
    x, y = 2 + 4 * (place % 5), 2 + 2 * (place // 5)
    box, draw = (x, y, x + 16, y + 16), ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse(box, COLOURS[colour])
    elif shape == "square":
        draw.rectangle(box, COLOURS[colour])
    else:
        draw.polygon([(x, y + 16), (x + 8, y), (x + 16, y + 16)], COLOURS[colour])
    return image


def saved(image: Image.Image, folder: Path, number: int) -> str:
    """Write an image as PNG, every tenth in one of the odd ways; its name."""
    name = f"{number:04d}.png" if number % 10 else f"{number:04d}-{ODD[number // 10 % len(ODD)]}"
    if name.endswith("CMYK.jpg"):
        image = image.convert("CMYK")
    elif name.endswith("clear.png"):
        image.putalpha(Image.fromarray(np.where(np.asarray(image)[..., 0] == 128, 0, 255).astype(np.uint8)))
    elif name.endswith("deep.png"):
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    if name.endswith("turned.jpg"):
        exif[ExifTags.Base.Orientation] = 6
    image.save(folder / name, exif=exif)
    return name


def pictures(root: Path, images: int) -> list[Picture]:
    """Draw `images` pictures into root/images: of ten, eight are for training, one each for validation and test."""
    (root / "images").mkdir(parents=True)
    found = []
    for number in range(images):
        shape, colour = SHAPES[number % 3], list(COLOURS)[number // 3 % 4]
        name = saved(drawn(shape, colour, number // 12), root / "images", number)
        split = "test" if number % 10 == 9 else "val" if number % 10 == 8 else "train"
        found.append(Picture(number, name, shape, colour, split))
    return found


def write(root: Path, images: int = 300, unknown: int = 20) -> Path:
    """`images` pictures in root/images and root/dataset.json in Karpathy's form; every `unknown`-th says a new word."""
    records = []
    for picture in pictures(root, images):
        first, second = picture.texts
        texts = [first, second + (" zyxt" if picture.number % unknown == 0 else "")]
        sentences = [{"raw": text} for text in texts]
        records.append(
            {"filename": picture.name, "imgid": picture.number, "split": picture.split, "sentences": sentences}
        )
    dumped(root / "dataset.json", {"images": records, "dataset": "mine"})
    return root


def dumped(file: Path, content: Any) -> None:
    """Write JSON, with the folders it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _of(split: str, found: Sequence[Picture]) -> list[Picture]:
    return [picture for picture in found if picture.split == split]


# Captions


def _coco(root: Path, found: Sequence[Picture], **more: str) -> None:
    for split in SPLITS:
        shown = _of(split, found)
        listed = [{"id": p.number, "file_name": p.name, **more} for p in shown]
        told = [
            {"id": 2 * p.number + n, "image_id": p.number, "caption": t} for p in shown for n, t in enumerate(p.texts)
        ]
        dumped(root / f"{split}.json", {"images": listed, "annotations": told})


def _listed_captions(root: Path, found: Sequence[Picture]) -> None:
    for split in SPLITS:
        dumped(root / f"{split}.json", [{"image": p.name, "caption": p.texts} for p in _of(split, found)])


def _content(root: Path, picture: Picture) -> bytes:
    return (root / "images" / picture.name).read_bytes()


def _files(root: Path, found: Sequence[Picture]) -> None:
    for picture in found:
        place = root / picture.split / "00000"
        place.mkdir(parents=True, exist_ok=True)
        (place / picture.name).write_bytes(_content(root, picture))
        (place / f"{Path(picture.name).stem}.txt").write_text(picture.texts[0])


def _shards(root: Path, found: Sequence[Picture]) -> None:
    for split in SPLITS:
        (root / split).mkdir()
        with tarfile.open(root / split / "00000.tar", "w") as archive:
            for picture in _of(split, found):
                stem = Path(picture.name).stem
                texts = json.dumps({"caption": picture.texts[0]}).encode()
                for name, content in ((picture.name, _content(root, picture)), (f"{stem}.json", texts)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def _tables(root: Path, found: Sequence[Picture]) -> None:
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    for split in SPLITS:
        rows = [{"image": {"bytes": _content(root, p)}, "caption": p.texts} for p in _of(split, found)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), root / f"{split}-00000.parquet")


# Questions and statements


def _questions(root: Path, found: Sequence[Picture], answers: int = 1) -> None:
    for split in ("train", "val"):
        listed = [
            {"question_id": p.number, "question": ASKED.format(p.shape), "image": p.name,
             "answer": p.colour if answers == 1 else [p.colour] * answers} for p in _of(split, found)
        ]  # fmt: skip
        dumped(root / f"{split}.json", listed)


def _vqa(root: Path, found: Sequence[Picture]) -> None:
    for split in ("train", "val"):
        shown = _of(split, found)
        asked = [{"question_id": p.number, "image_id": p.name, "question": ASKED.format(p.shape)} for p in shown]
        told = [{"question_id": p.number, "image_id": p.name, "answers": [{"answer": p.colour}]} for p in shown]
        dumped(root / f"{split}_questions.json", {"questions": asked})
        dumped(root / f"{split}_annotations.json", {"annotations": told})


def _renamed(root: Path, picture: Picture) -> str:
    """Visual Genome and GQA name images by their number, as JPEGs."""
    name = f"{picture.number + 1}.jpg"
    with Image.open(root / "images" / picture.name) as image:
        (image.convert("RGB") if image.mode in ("RGBA", "I;16") else image).save(root / "images" / name)
    return name.removesuffix(".jpg")


def _gqa(root: Path, found: Sequence[Picture]) -> None:
    for split in ("train", "val"):
        asked = {
            f"q{p.number}": {"imageId": _renamed(root, p), "question": ASKED.format(p.shape), "answer": p.colour}
            for p in _of(split, found)
        }
        dumped(root / f"{split}_questions.json", asked)


def _genome(root: Path, found: Sequence[Picture]) -> None:
    for split in ("train", "val"):
        listed = [
            {"id": int(_renamed(root, p)),
             "qas": [{"qa_id": p.number, "question": f"{ASKED.format(p.shape)}?", "answer": f"{p.colour}."}]}
            for p in _of(split, found)
        ]  # fmt: skip
        dumped(root / f"{split}_question_answers.json", listed)


def _couples(split: str, found: Sequence[Picture]) -> Iterator[tuple[Picture, Picture, str, bool]]:
    shown = _of(split, found)
    for left, right in zip(shown, shown[1:] + shown[:1], strict=True):
        yield left, right, f"the {left.shape} is {left.colour}", left.number % 2 == 0


def _pairs(root: Path, found: Sequence[Picture]) -> None:
    for split in SPLITS:
        listed = [
            {"images": [left.name, right.name], "sentence": text, "label": "True" if true else "False"}
            for left, right, text, true in _couples(split, found)
        ]
        dumped(root / f"{split}.json", listed)


def _nlvr2(root: Path, found: Sequence[Picture]) -> None:
    for split in SPLITS:
        lines = []
        for number, (left, right, text, true) in enumerate(_couples(split, found)):
            (root / "images" / split).mkdir(exist_ok=True)
            for side, picture in enumerate((left, right)):
                with Image.open(root / "images" / picture.name) as image:
                    image.convert("RGB").save(root / "images" / split / f"{split}-{number}-0-img{side}.png")
            lines.append(json.dumps({"identifier": f"{split}-{number}-0-0", "sentence": text, "label": str(true)}))
        (root / f"{split}.json").write_text("\n".join(lines))


# Classes


def _folders(root: Path, found: Sequence[Picture]) -> None:
    for picture in found:
        place = root / picture.split / picture.shape
        place.mkdir(parents=True, exist_ok=True)
        (place / picture.name).write_bytes(_content(root, picture))


def _coop(root: Path, found: Sequence[Picture]) -> None:
    entries = {s: [[p.name, SHAPES.index(p.shape), p.shape] for p in _of(s, found)] for s in SPLITS}
    dumped(root / "split.json", entries)


def _aircraft(root: Path, found: Sequence[Picture]) -> None:
    (root / "variants.txt").write_text("\n".join(SHAPES))
    for split in SPLITS:
        lines = [f"{_renamed(root, p)} {p.shape}" for p in _of(split, found)]
        (root / f"images_variant_{split}.txt").write_text("\n".join(lines))


def _flowers(root: Path, found: Sequence[Picture]) -> None:
    (root / "annots").mkdir()
    rows = [f"{p.name},{p.split},{SHAPES.index(p.shape)}" for p in found]
    (root / "annots/split.csv").write_text("\n".join(["filename,split,class", *rows]))
    names = [f"{number},{shape}" for number, shape in enumerate(SHAPES)]
    (root / "annots/metadata.csv").write_text("\n".join(["idx,class_name", *names]))


def _cifar(root: Path, found: Sequence[Picture]) -> None:
    (root / "batches.meta.txt").write_text("\n".join(SHAPES))

    def rows(shown: Sequence[Picture]) -> bytes:
        images = [np.asarray(drawn(p.shape, p.colour, p.number % 25).resize((32, 32))) for p in shown]
        return b"".join(
            bytes([SHAPES.index(p.shape)]) + image.transpose(2, 0, 1).tobytes()
            for p, image in zip(shown, images, strict=True)
        )

    train = [p for p in found if p.split != "test"]
    for batch in range(5):
        (root / f"data_batch_{batch + 1}.bin").write_bytes(rows(train[batch::5]))
    (root / "test_batch.bin").write_bytes(rows(_of("test", found)))


FORMS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "captions": {
        "salesforce": _listed_captions, "coco": _coco, "files": _files, "webdataset": _shards, "parquet": _tables,
        "nocaps": lambda root, found: _coco(root, found, domain="near-domain"),
    },
    "questions": {"salesforce": _questions, "vqav2": _vqa, "gqa": _gqa, "visual_genome": _genome},
    "pairs": {"salesforce": _pairs, "nlvr2": _nlvr2},
    "classes": {"imagefolder": _folders, "coop": _coop, "aircraft": _aircraft, "listed": _flowers, "cifar": _cifar},
}  # fmt: skip
"""Kind of data -> form -> what writes pictures in it; captions in Karpathy's form are those of `write`."""


def write_as(root: Path, kind: str, form: str, images: int = 60) -> Path:
    """`images` pictures in one of `FORMS`."""
    if (kind, form) == ("captions", "karpathy"):
        return write(root, images)
    FORMS[kind][form](root, pictures(root, images))
    return root


if __name__ == "__main__":
    given = dict(zip(("root", "form"), sys.argv[1:], strict=False))
    form = given.get("form", "karpathy")
    sought = "captions" if form == "karpathy" else next(kind for kind, forms in FORMS.items() if form in forms)
    write_as(Path(given["root"]), sought, form, 300)
