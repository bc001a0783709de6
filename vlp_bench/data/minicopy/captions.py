"""Captions in the lists of X-VLM and BLIP, Karpathy's, COCO's and NoCaps' formats, and img2dataset's."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from vlp_bench.data.minicopy.folder import Target
from vlp_bench.data.readers.coco import DOMAINS
from vlp_bench.data.records import CaptionedImage

FOLDERS = {"train": "train2014", "val": "val2014", "test": "val2014"}
"""Split -> the folder of its images, as in Karpathy's split of COCO."""
Numbered = dict[str, list[tuple[int, CaptionedImage]]]
"""Split -> (number of the image, its scene and captions)."""


def numbered(target: Target, sizes: dict[str, int]) -> Numbered:
    """Scenes for every split, numbered through."""
    found: Numbered = {}
    first = 1
    for split, n in sizes.items():
        found[split] = list(enumerate(target.images(f"itr_{split}", n), first))
        first += n
    return found


def place(split: str, number: int) -> str:
    """The path of a COCO image below its image folder."""
    return f"{FOLDERS[split]}/COCO_{FOLDERS[split]}_{number:012d}.jpg"


def _moved(record: CaptionedImage, image: str, identity: str, domain: str = "") -> CaptionedImage:
    return CaptionedImage(image, record.captions, identity, domain)


def released(target: Target, scenes: Numbered) -> None:
    """`finetune/{itr,ic}`: a record per caption for training, per image for validation and test."""
    for split, listed in scenes.items():
        for number, record in listed:
            target.image(record.image, f"images/coco/{place(split, number)}")
        train = split == "train"
        for folder, name in (("itr", "coco"), ("ic", "coco_karpathy")):
            file = f"finetune/{folder}/{name}_{split}.json"
            target.json(file, _per_caption(listed) if train else _per_image(split, listed))
            target.told[file] = [
                _moved(r, place(split, n), f"coco_{n}" if train else place(split, n)) for n, r in listed
            ]


def _per_caption(listed: Sequence[tuple[int, CaptionedImage]]) -> list[dict[str, str]]:
    return [
        {"caption": caption, "image": place("train", number), "image_id": f"coco_{number}"}
        for number, record in listed
        for caption in record.captions
    ]


def _per_image(split: str, listed: Sequence[tuple[int, CaptionedImage]]) -> list[dict[str, object]]:
    return [{"image": place(split, number), "caption": list(record.captions)} for number, record in listed]


def karpathy(target: Target, scenes: Numbered) -> None:
    """`karpathy/dataset_coco.json`; every fourth training image is called restval, as most of COCO's are."""
    images = []
    for split, listed in scenes.items():
        for at, (number, record) in enumerate(listed):
            folder, _, name = place(split, number).partition("/")
            called = "restval" if split == "train" and at % 4 == 0 else split
            sentences = [
                {"tokens": c.split(), "raw": c, "imgid": len(images), "sentid": 10 * number + i}
                for i, c in enumerate(record.captions)
            ]
            image = {"filepath": folder, "filename": name, "imgid": len(images), "split": called, "cocoid": number}
            images.append({**image, "sentids": [s["sentid"] for s in sentences], "sentences": sentences})
        file = f"karpathy/dataset_coco.json#{split}"
        target.told[file] = [_moved(r, place(split, n), str(n)) for n, r in listed]
    target.json("karpathy/dataset_coco.json", {"images": images, "dataset": "coco"})


def coco(target: Target, scenes: Numbered) -> None:
    """`annotations/captions_{train,val}2014.json`."""
    for folder, splits in {"train2014": ("train",), "val2014": ("val", "test")}.items():
        listed = [(place(split, n), n, record) for split in splits for n, record in scenes[split]]
        file = f"annotations/captions_{folder}.json"
        target.json(file, _coco([(image.split("/")[1], n, r, "") for image, n, r in listed], target.side))
        target.told[file] = [_moved(record, image, str(n)) for image, n, record in listed]


def _coco(listed: Sequence[tuple[str, int, CaptionedImage, str]], side: int) -> dict[str, object]:
    images = [
        {"id": n, "file_name": name, "width": side, "height": side} | ({"domain": domain} if domain else {})
        for name, n, _, domain in listed
    ]
    pairs = [(n, caption) for _, n, record, _ in listed for caption in record.captions]
    annotations = [{"image_id": n, "id": i, "caption": caption} for i, (n, caption) in enumerate(pairs)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations}


def nocaps(target: Target, n: int) -> None:
    """`nocaps/nocaps_val_4500_captions.json`, with the three domains in turn."""
    listed = []
    for number, record in enumerate(target.images("ic_val", n)):
        name = f"{number:016x}.jpg"
        target.image(record.image, f"images/nocaps/{name}")
        listed.append((name, number, record, DOMAINS[number % 3]))
    file = "nocaps/nocaps_val_4500_captions.json"
    target.json(file, _coco(listed, target.side))
    target.told[file] = [_moved(record, name, str(number), domain) for name, number, record, domain in listed]


def conceptual(target: Target, n: int) -> None:
    """CC3M: the list to calibrate on, and img2dataset's three forms."""
    records = target.images("calibration_general", n)
    pairs = [(f"{number:09d}", record) for number, record in enumerate(records)]
    entries = [
        {"image": f"00000/{name}.jpg", "caption": record.captions[0], "dataset": "cc3m"} for name, record in pairs
    ]
    for name, record in pairs:
        image = target.image(record.image, f"images/cc3m/00000/{name}.jpg")
        _triplet(target, name, record.captions[0], image.read_bytes())
    target.json("pretrain/cc3m_pretrain.json", entries)
    _tar(target.root / "img2dataset/files/00000", target.root / "img2dataset/webdataset/00000.tar")

    def told(folder: str) -> list[CaptionedImage]:
        places = [(f"{folder}/{name}.jpg", record.captions[:1]) for name, record in pairs]
        return [CaptionedImage(image, captions, image) for image, captions in places]

    target.told["pretrain/cc3m_pretrain.json"] = target.told["img2dataset/files"] = told("00000")
    target.told["img2dataset/webdataset"] = told("00000.tar")


def _triplet(target: Target, name: str, caption: str, image: bytes) -> None:
    """An image with its .txt and .json, as img2dataset leaves them."""
    about = {"caption": caption, "key": name, "status": "success", "width": target.side, "height": target.side}
    target.json(f"img2dataset/files/00000/{name}.json", about)
    target.text(f"img2dataset/files/00000/{name}.txt", caption)
    (target.root / f"img2dataset/files/00000/{name}.jpg").write_bytes(image)


def _tar(folder: Path, tar: Path) -> None:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for file in sorted(folder.iterdir()):
            member = tarfile.TarInfo(file.name)
            content = file.read_bytes()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def parquet(target: Target, n: int) -> None:
    """`parquet/train-00000-of-00001.parquet` in Hugging Face's form, where pyarrow is installed."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet as tables  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    file = "parquet/train-00000-of-00001.parquet"
    rows = []
    for number, record in enumerate(target.images("itr_val", n)):
        image = target.image(record.image, f"images/hf/{number}.jpg")
        rows.append({"image": {"bytes": image.read_bytes(), "path": image.name}, "caption": list(record.captions)})
    (target.root / file).parent.mkdir(parents=True, exist_ok=True)
    tables.write_table(pyarrow.Table.from_pylist(rows), target.root / file, row_group_size=3)
    target.told[file] = [
        CaptionedImage(f"{Path(file).name}/{i}", tuple(row["caption"]), f"{Path(file).name}/{i}")
        for i, row in enumerate(rows)
    ]
