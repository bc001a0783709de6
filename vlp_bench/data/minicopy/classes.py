"""Images by class in ImageNet's folders, CoOp's splits, FGVC Aircraft's and MULTIFLOW's lists and CIFAR's binary files.

The class of a scene is the shape of its only thing.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vlp_bench.data.minicopy.folder import Target
from vlp_bench.data.records import LabelledImage, LabelledImages
from vlp_bench.data.shapes.scenes import SHAPES
from vlp_bench.data.shapes.world import key

Labelled = dict[str, list[tuple[str, int]]]
"""Split -> (key of the scene, class)."""


def labelled(target: Target, sizes: dict[str, int]) -> Labelled:
    """Scenes of one thing, as many of each class as of any other, up to one."""
    return {split: list(_scenes(target, f"itr_{split}", n)) for split, n in sizes.items()}


def _scenes(target: Target, split: str, n: int) -> Iterator[tuple[str, int]]:
    index = 0
    for number in range(n):
        while True:
            scene, _ = target.world.captioned(split, index, 1, 1)
            index += 1
            if scene.things[0].shape == number % len(SHAPES):
                yield key(scene), number % len(SHAPES)
                break


def folders(target: Target, scenes: Labelled) -> None:
    """`imagenet/{train,val}/<wnid>/*.JPEG` with CoOp's classnames.txt and MULTIFLOW's metadata.csv."""
    wnids = [f"n{label:08d}" for label in range(len(SHAPES))]
    for split in ("train", "val"):
        records = []
        for number, (scene, label) in enumerate(scenes[split]):
            place = f"{wnids[label]}/{wnids[label]}_{number:06d}.JPEG"
            target.image(scene, f"imagenet/{split}/{place}")
            records.append(LabelledImage(place, label))
        told = LabelledImages(tuple(sorted(records, key=lambda r: r.image)), SHAPES)
        target.told[f"imagenet/{split}"] = told
    pairs = list(zip(wnids, SHAPES, strict=True))
    target.text("imagenet/classnames.txt", "".join(f"{wnid} {name}\n" for wnid, name in pairs))
    rows = "".join(f"{wnid},{name}\n" for wnid, name in pairs)
    target.text("imagenet/annots/metadata.csv", "folder_name,class_name\n" + rows)


def coop(target: Target, scenes: Labelled) -> None:
    """`oxford_pets/split_zhou_OxfordPets.json`, its images in `oxford_pets/images`."""
    file, content = "oxford_pets/split_zhou_OxfordPets.json", {}
    for split, listed in scenes.items():
        content[split] = [[f"{split}_{i}.jpg", label, SHAPES[label]] for i, (_, label) in enumerate(listed)]
        for (scene, _), (name, _, _) in zip(listed, content[split], strict=True):
            target.image(scene, f"oxford_pets/images/{name}")
        records = tuple(LabelledImage(name, label) for name, label, _ in content[split])
        target.told[f"{file}#{split}"] = LabelledImages(records, SHAPES)
    target.json(file, content)


def aircraft(target: Target, scenes: Labelled) -> None:
    """`fgvc_aircraft/images_variant_{train,val,test}.txt` and variants.txt."""
    target.text("fgvc_aircraft/variants.txt", "".join(f"{name}\n" for name in SHAPES))
    number = 0
    for split, listed in scenes.items():
        lines, records = [], []
        for scene, label in listed:
            number += 1
            target.image(scene, f"fgvc_aircraft/images/{number:07d}.jpg")
            lines.append(f"{number:07d} {SHAPES[label]}\n")
            records.append(LabelledImage(f"images/{number:07d}.jpg", label))
        target.text(f"fgvc_aircraft/images_variant_{split}.txt", "".join(lines))
        target.told[f"fgvc_aircraft#{split}"] = LabelledImages(tuple(records), SHAPES)


def listed(target: Target, scenes: Labelled) -> None:
    """`flowers102/annots/{split,metadata}.csv` and `flowers102/images`."""
    rows, records = [], {}
    for split, entries in scenes.items():
        records[split] = []
        for number, (scene, label) in enumerate(entries):
            name = f"{split}_{number:05d}.jpg"
            target.image(scene, f"flowers102/images/{name}")
            rows.append(f"{name},{split},{label}\n")
            records[split].append(LabelledImage(f"images/{name}", label))
    target.text("flowers102/annots/split.csv", "filename,split,class\n" + "".join(rows))
    names = "".join(f"{label},{name}\n" for label, name in enumerate(SHAPES))
    target.text("flowers102/annots/metadata.csv", "idx,class_name\n" + names)
    joined = {"train": records["train"] + records["val"], "test": records["test"]}
    for split, found in joined.items():
        target.told[f"flowers102#{split}"] = LabelledImages(tuple(found), SHAPES)


def cifar(target: Target, scenes: Labelled) -> None:
    """`cifar-10-batches-bin` and `cifar-100-binary`, at 32 x 32, the first as an archive too."""
    train, test = scenes["train"], scenes["test"]
    ten, hundred = "cifar-10-batches-bin", "cifar-100-binary"
    target.text(f"{ten}/batches.meta.txt", "".join(f"{name}\n" for name in SHAPES))
    target.text(f"{hundred}/fine_label_names.txt", "".join(f"{name}\n" for name in SHAPES))
    per = -(-len(train) // 5)
    for part in range(5):
        _binary(target, f"{ten}/data_batch_{part + 1}.bin", train[part * per : (part + 1) * per], coarse=False)
    _binary(target, f"{ten}/test_batch.bin", test, coarse=False)
    _binary(target, f"{hundred}/train.bin", train, coarse=True)
    _binary(target, f"{hundred}/test.bin", test, coarse=True)
    _archive(target, ten, "cifar-10-binary.tar.gz")
    for folder in (ten, hundred):
        for split, found in (("train", train), ("test", test)):
            records = tuple(LabelledImage(f"{split}/{i}", label) for i, (_, label) in enumerate(found))
            target.told[f"{folder}#{split}"] = LabelledImages(records, SHAPES)


def _archive(target: Target, folder: str, name: str) -> None:
    """The same bytes whenever it is written: no times."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in sorted((target.root / folder).iterdir()):
            member = tarfile.TarInfo(f"{folder}/{file.name}")
            member.size = file.stat().st_size
            archive.addfile(member, io.BytesIO(file.read_bytes()))
    (target.root / name).write_bytes(gzip.compress(content.getvalue(), mtime=0))


def _binary(target: Target, file: str, scenes: list[tuple[str, int]], *, coarse: bool) -> None:
    """Rows of one label byte (CIFAR-100: a coarse one before it) and 3,072 of the image, channel by channel."""
    rows = b""
    for scene, label in scenes:
        small = target.world.open(scene).resize((32, 32), Image.Resampling.BICUBIC)
        rows += bytes([0] * coarse + [label]) + np.asarray(small).transpose(2, 0, 1).tobytes()
    (target.root / file).parent.mkdir(parents=True, exist_ok=True)
    (target.root / file).write_bytes(rows)


def texts(target: Target, n: int) -> None:
    """`c4/c4-train.00000-of-01024.json.gz`: five captions a line stand for a page."""
    pages = [" . ".join(record.captions) for record in target.images("calibration_general", n)]
    content = "".join(json.dumps({"text": page, "timestamp": "", "url": ""}) + "\n" for page in pages)
    file = "c4/c4-train.00000-of-01024.json.gz"
    (target.root / file).parent.mkdir(parents=True, exist_ok=True)
    (target.root / file).write_bytes(gzip.compress(content.encode(), mtime=0))
    target.told[file] = pages
