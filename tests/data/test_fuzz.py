"""Annotation files and archives, damaged at random: a right result or one clear line, never a traceback or a hang."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlp_bench.data.minicopy import Copy, write
from vlp_bench.data.readers import annotations, coco, genome
from vlp_bench.data.readers.classes import Cifar, read_aircraft, read_coop, read_folders, read_listed
from vlp_bench.data.readers.shards import Shards, read_triplets
from vlp_bench.data.readers.texts import read_texts
from vlp_bench.data.records import LabelledImages, RegionImage

EACH = 40
STRANGE: list[Any] = [
    None, True, -1, 0, 10**30, 10**400, 1e308, 1e999, math.nan, -math.inf, "", " ", "?!", "\ud800", "../../etc/passwd",
    "/etc/passwd", "a\0b", "x" * 5000, [], {}, [[]], [None], [1, 2, 3, 4], {"a": 1}, [[0, 0, 1e9, 1e9]], 2**63,
]  # fmt: skip


def size(key: str) -> tuple[int, int]:
    return 48, 48


def shards(path: Path) -> Any:
    return Shards(path).captions()


FILES: dict[str, Callable[[Path], Any]] = {
    "finetune/itr/coco_train.json": annotations.read_captions,
    "finetune/itr/coco_val.json": annotations.read_captions,
    "finetune/vqa/vqa_train.json": annotations.read_questions,
    "pretrain/vg_regions.json": lambda path: annotations.read_regions(path, size),
    "pretrain/vg_dense_gby_image.json": lambda path: annotations.read_grouped(path, size),
    "nlvr2/nlvr_dev.json": annotations.read_pairs,
    "nlvr2/train.json": genome.read_nlvr2,
    "karpathy/dataset_coco.json": lambda path: coco.read_karpathy(path, "train"),
    "annotations/captions_val2014.json": coco.read_coco,
    "nocaps/nocaps_val_4500_captions.json": coco.read_nocaps,
    "vqa/v2_OpenEnded_mscoco_val2014_questions.json": coco.read_vqa,
    "vqa/v2_mscoco_val2014_annotations.json": lambda path: coco.read_vqa(
        path.with_name("v2_OpenEnded_mscoco_val2014_questions.json")
    ),
    "gqa/testdev_balanced_questions.json": genome.read_gqa,
    "visual_genome/region_descriptions.json": lambda path: genome.read_region_descriptions(path, size),
    "visual_genome/image_data.json": lambda path: genome.read_question_answers(path.with_name("question_answers.json")),
    "visual_genome/question_answers.json": genome.read_question_answers,
    "oxford_pets/split_zhou_OxfordPets.json": lambda path: read_coop(path, "train"),
    "fgvc_aircraft/images_variant_train.txt": lambda path: read_aircraft(path.parent, "train"),
    "flowers102/annots/split.csv": lambda path: read_listed(path.parent.parent, ("train",)),
    "imagenet/annots/metadata.csv": lambda path: read_folders(path.parent.parent / "val", path),
    "cifar-10-binary.tar.gz": lambda path: Cifar(path).labelled("train"),
    "cifar-100-binary/train.bin": lambda path: Cifar(path.parent).labelled("train"),
    "img2dataset/webdataset/00000.tar": shards,
    "img2dataset/files/00000/000000003.json": lambda path: read_triplets(path.parent.parent),
    "c4/c4-train.00000-of-01024.json.gz": lambda path: read_texts(path, 8),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return write(tmp_path_factory.mktemp("copy") / "data", images=8)


def damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes exchanged, or cut, or doubled."""
    data = bytearray(content)
    how = int(rng.integers(4))
    if how == 0:
        for at in rng.integers(len(data), size=int(rng.integers(1, 8))):
            data[int(at)] = int(rng.integers(256))
    elif how == 1:
        del data[int(rng.integers(len(data))) :]
    elif how == 2:
        at = int(rng.integers(len(data)))
        data[at:at] = rng.bytes(int(rng.integers(1, 64)))
    else:
        at, end = sorted(rng.integers(len(data), size=2).tolist())
        del data[at:end]
    return bytes(data)


def damaged_value(content: Any, rng: np.random.Generator) -> Any:
    """Some value, however deep, exchanged for a strange one or left out."""
    strange = STRANGE[int(rng.integers(len(STRANGE)))]
    node = content
    while True:
        places = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not places:
            return strange
        key = places[int(rng.integers(len(places)))]
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.15:
            break
        node = node[key]
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = strange
    return content


def broken(content: bytes, file: str, rng: np.random.Generator) -> bytes:
    if file.endswith(".json") and rng.random() < 0.6:
        if file == "nlvr2/train.json":
            lines = content.splitlines()
            at = int(rng.integers(len(lines)))
            lines[at] = json.dumps(damaged_value(json.loads(lines[at]), rng)).encode()
            return b"\n".join(lines)
        return json.dumps(damaged_value(json.loads(content), rng)).encode()
    return damaged_bytes(content, rng)


def sane(found: Any) -> bool:
    """Whether the records keep what records promise."""
    records = found.records if isinstance(found, LabelledImages) else found
    for record in records:
        images = getattr(record, "images", None) or (getattr(record, "image", "a"),)
        if any(image.startswith("/") or ".." in image.split("/") for image in images):
            return False
        if isinstance(record, RegionImage):
            w, h = record.size
            if not all(x >= 0 and y >= 0 and 0 < x + a <= w and 0 < y + b <= h for x, y, a, b in boxes(record)):
                return False
        for text in (
            *getattr(record, "captions", ()),
            getattr(record, "question", "a"),
            getattr(record, "sentence", "a"),
        ):
            if not any(map(str.isalnum, text)):
                return False
    return len(records) > 0


def boxes(record: RegionImage) -> list[tuple[float, float, float, float]]:
    return [region.box for region in record.regions]


@pytest.mark.parametrize("file", FILES)
def test_damage_ends_in_a_line_or_a_right_result(copy: Copy, file: str) -> None:
    path, rng = copy.root / file, np.random.default_rng(len(file))
    whole = path.read_bytes()
    refused = 0
    try:
        for _ in range(EACH):
            content = broken(whole, file, rng)
            path.write_bytes(content)
            try:
                assert sane(FILES[file](path)), content[:500]
            except ValueError as error:  # anything else is a traceback, and fails here
                refused += 1
                text = str(error)
                assert "\n" not in text, text
                assert 10 < len(text) < 1500, text
                assert str(copy.root) in text, text
    finally:
        path.write_bytes(whole)
    assert sane(FILES[file](path))
    assert refused >= 3


def test_there_are_enough_cases() -> None:
    assert EACH * len(FILES) >= 500


def test_an_undamaged_copy_is_read_whole(copy: Copy) -> None:
    assert all(sane(read(copy.root / file)) for file, read in FILES.items())
