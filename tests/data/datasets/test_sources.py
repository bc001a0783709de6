"""The embedded world and files go the same way: the same batches come out of both."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vlp_bench.batch import Batch
from vlp_bench.data.datasets.files import FilesRetrieval
from vlp_bench.data.datasets.retrieval import CalibrationSettings, RetrievalData
from vlp_bench.data.datasets.sources import RetrievalSource, ShapesRetrieval
from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.transforms.images import Eval

SIZES = {"train": 8, "val": 6, "test": 7, "general": 4, "regions": 4}


def export(folder: Path) -> FilesRetrieval:
    """The embedded world written out as the released files would be, images and all."""
    source = ShapesRetrieval(**SIZES)
    for part in ("coco", "cc3m", "vg"):
        (folder / part).mkdir()

    def save(part: str, key: str) -> str:
        source.world.open(key).save(folder / part / f"{key}.png")
        return f"{key}.png"

    def dump(name: str, records: list[dict[str, Any]]) -> str:
        (folder / f"{name}.json").write_text(json.dumps(records))
        return str(folder / f"{name}.json")

    def each(records: Any, part: str) -> list[dict[str, Any]]:
        return [
            {"image": save(part, r.image), "caption": c, "image_id": r.image_id} for r in records for c in r.captions
        ]

    def whole(records: Any) -> list[dict[str, Any]]:
        return [{"image": save("coco", r.image), "caption": list(r.captions)} for r in records]

    regions = [
        {"image": save("vg", r.image), "elems": [{"caption": e.caption, "bb": list(e.box)} for e in r.regions]}
        for r in source.regions().records
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary()))
    return FilesRetrieval(
        train=dump("train", each(source.captions("train").records, "coco")),
        val=dump("val", whole(source.captions("val").records)),
        test=dump("test", whole(source.captions("test").records)),
        general=dump("general", each(source.general().records, "cc3m")),
        regions=dump("regions", regions),
        images=str(folder / "coco"),
        general_images=str(folder / "cc3m"),
        regions_images=str(folder / "vg"),
        vocab=str(folder / "vocab.txt"),
    )


def data(source: RetrievalSource) -> RetrievalData:
    calibration = CalibrationSettings(Eval(48), Eval(48), side=6, num_batches=2, batch_size=2)
    return RetrievalData(
        source,
        train_transform=Eval(48),
        eval_transform=Eval(48),
        calibration=calibration,
        batch_size=5,
        eval_batch_size=4,
    )


def same(a: Batch, b: Batch) -> bool:
    return vars(a).keys() == vars(b).keys() and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x is y for x, y in zip(vars(a).values(), vars(b).values())
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FilesRetrieval:
    return export(tmp_path_factory.mktemp("released"))


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_files_and_the_embedded_world_give_the_same_batches(files: FilesRetrieval, loader: str) -> None:
    of_files, of_world = (list(getattr(data(s), loader)()) for s in (files, ShapesRetrieval(**SIZES)))
    assert len(of_files) > 1
    assert all(same(a, b) for a, b in zip(of_files, of_world, strict=True))


def test_files_and_the_embedded_world_calibrate_alike(files: FilesRetrieval) -> None:
    of_files, of_world = (list(data(s).calibration()) for s in (files, ShapesRetrieval(**SIZES)))
    assert len(of_files) == 2
    for parts, others in zip(of_files, of_world, strict=True):
        assert [p.is_region for p in parts] == [False, True]
        assert all(same(a, b) for a, b in zip(parts, others, strict=True))


def test_fingerprints_follow_the_content(tmp_path: Path, files: FilesRetrieval) -> None:
    before = files.fingerprint("train"), files.fingerprint("val")
    assert before == (files.fingerprint("train"), files.fingerprint("val"))
    assert before[0] != before[1]
    changed = tmp_path / "train.json"
    changed.write_text(files.files["train"].read_text() + " ")
    files.files["train"], kept = changed, files.files["train"]
    assert files.fingerprint("train") != before[0]
    files.files["train"] = kept


def test_fingerprints_of_the_embedded_world_tell_worlds_and_sizes_apart() -> None:
    sources = [ShapesRetrieval(**SIZES), ShapesRetrieval(**SIZES, world=1), ShapesRetrieval(**SIZES | {"train": 9})]
    assert len({s.fingerprint("train") for s in sources}) == 3
    assert len({s.fingerprint("test") for s in sources}) == 2


def test_splits_of_the_embedded_world_do_not_meet() -> None:
    source = ShapesRetrieval(train=60, val=30, test=30, general=30, regions=30)
    splits = [source.captions(s).records for s in ("train", "val", "test")]
    shown = [
        {r.image.split("-", 2)[2] for r in [*s]} for s in [*splits, source.general().records, source.regions().records]
    ]
    assert sum(map(len, shown)) == len(set().union(*shown))


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    names = ("train", "val", "test", "images", "general", "general_images", "regions", "regions_images")
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary()))
    (tmp_path / "images").mkdir()
    (tmp_path / "val").write_text('[{"image": "a.jpg", "caption": "a dog"}]')
    source = FilesRetrieval(**{n: str(tmp_path / n) for n in names}, vocab=str(tmp_path / "vocab.txt"))
    assert source.captions("val").records == [CaptionedImage("a.jpg", ("a dog",), "a.jpg")]
    with pytest.raises(ValueError, match=r"cannot read .*train"):
        source.captions("train")
    with pytest.raises(ValueError, match=r"cannot read .*regions"):
        source.fingerprint("regions")
    (tmp_path / "general").write_text('[{"image": "a.jpg", "caption": "a dog"}]')
    with pytest.raises(ValueError, match=r"no image folder .*general_images"):
        source.general()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"train": 0}, "train split needs at least 1 image, got 0"),
        ({"regions": -1}, "regions split needs at least 1 image"),
        ({"twins": 1.5}, r"twins is a share of the gallery in \[0, 1\], got 1.5"),
    ],
)
def test_sizes_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesRetrieval(**SIZES | given)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="one of train, val, test, got 'dev'"):
        ShapesRetrieval(**SIZES).captions("dev")
