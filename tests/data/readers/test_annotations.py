"""The released files, as spec'd, and what is said of broken ones."""

import json
import logging
from pathlib import Path

import pytest

from vlp_bench.data.readers.annotations import read_captions, read_regions
from vlp_bench.data.records import CaptionedImage, RegionCaption, RegionImage

TRAIN = [
    {"caption": "A woman cutting a cake. ", "image": "val2014/COCO_1.jpg", "image_id": "coco_1"},
    {"caption": "A dog.", "image": "val2014/COCO_2.jpg", "image_id": 2},
    {"caption": "A woman with a net.", "image": "val2014/COCO_1.jpg", "image_id": "coco_1"},
]
TEST = [
    {"image": "val2014/3.jpg", "caption": ["A man.", "A moped."]},
    {"image": "val2014/4.jpg", "caption": ["A road."]},
]
CC3M = [{"image": "00000/000000012.jpg", "caption": "a very typical bus station", "dataset": "cc3m"}]
VG = [
    {
        "image": "images/vg/2.jpg",
        "elems": [
            {"caption": "lady at table", "bb": [155, 0, 205, 131]},
            {"caption": "window", "attributes": "closed", "bb": [20, 130, 335, 185]},
            {"caption": ["sky", "clouds"], "attributes": ["blue"], "bb": [0, 0, 400, 20]},
        ],
    }
]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def size(key: str) -> tuple[int, int]:
    return 400, 350


def test_training_captions_are_gathered_by_image(tmp_path: Path) -> None:
    assert read_captions(write(tmp_path / "coco_train.json", TRAIN)) == [
        CaptionedImage("val2014/COCO_1.jpg", ("A woman cutting a cake. ", "A woman with a net."), "coco_1"),
        CaptionedImage("val2014/COCO_2.jpg", ("A dog.",), "2"),
    ]


def test_test_images_bring_all_their_captions(tmp_path: Path) -> None:
    assert read_captions(write(tmp_path / "coco_test.json", TEST)) == [
        CaptionedImage("val2014/3.jpg", ("A man.", "A moped."), "val2014/3.jpg"),
        CaptionedImage("val2014/4.jpg", ("A road.",), "val2014/4.jpg"),
    ]


def test_calibration_captions(tmp_path: Path) -> None:
    (record,) = read_captions(write(tmp_path / "cc3m_pretrain.json", CC3M))
    assert record == CaptionedImage("00000/000000012.jpg", ("a very typical bus station",), "00000/000000012.jpg")


def test_regions_with_attributes_and_lists(tmp_path: Path) -> None:
    (record,) = read_regions(write(tmp_path / "vg_regions.json", VG), size)
    sky = (0.0, 0.0, 400.0, 20.0)
    assert record == RegionImage(
        "images/vg/2.jpg",
        (
            RegionCaption("lady at table", (155.0, 0.0, 205.0, 131.0)),
            RegionCaption("closed window", (20.0, 130.0, 335.0, 185.0)),
            RegionCaption("blue sky", sky),
            RegionCaption("blue clouds", sky),
        ),
        (400, 350),
    )


def test_a_caption_of_the_whole_image_is_a_region_of_its_size(tmp_path: Path) -> None:
    record = {"image": "3.jpg", "caption": "a park", "elems": [], "width": 30, "height": 20}
    (found,) = read_regions(write(tmp_path / "vg.json", [record]), size)
    assert found == RegionImage("3.jpg", (RegionCaption("a park", (0.0, 0.0, 30.0, 20.0)),), (30, 20))


@pytest.mark.parametrize("box", [[-1, 0, 5, 5], [0, 0, 401, 5], [399, 0, 2, 5], [0, 0, 0, 5], [0, 340, 5, 11]])
def test_boxes_outside_the_image_are_dropped_and_counted(
    tmp_path: Path, box: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    elements = [{"caption": "out", "bb": box}, {"caption": "in", "bb": [0, 0, 400, 350]}]
    path = write(
        tmp_path / "vg.json", [{"image": "1.jpg", "elems": elements}, {"image": "2.jpg", "elems": elements[:1]}]
    )
    with caplog.at_level(logging.WARNING):
        found = read_regions(path, size)
    assert [r.image for r in found] == ["1.jpg"]
    assert [r.caption for r in found[0].regions] == ["in"]
    assert "left out 2 regions" in caplog.text


def test_a_file_without_a_usable_region_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "vg.json", [{"image": "1.jpg", "elems": [{"caption": "a", "bb": [0, 0, 999, 1]}]}])
    with pytest.raises(ValueError, match=r"vg\.json: no region lies inside its image"):
        read_regions(path, size)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[{", r"a\.json is not JSON .*is the download complete"),
        ("", r"a\.json is not JSON"),
        ("{}", "must be a JSON list of at least one record, got a dict"),
        ("[]", "got an empty list"),
        ("[" * 100_000, "a.json is not JSON"),
        ([CC3M[0], 7], "record 1: is a int, not an object"),
        ([{"caption": "a"}], "record 0: needs 'image', the path of the image, got None"),
        ([{"image": "a.jpg"}], "record 0: needs 'caption'"),
        ([{"image": "a.jpg", "caption": []}], "record 0: needs 'caption'"),
        ([{"image": "a.jpg", "caption": ["fine", " ?!"]}], "record 0: needs 'caption', .* at least one word"),
        ([{"image": "../../etc/passwd", "caption": "a"}], "record 0: .*not a path below the image folder"),
        ([{"image": "/etc/passwd", "caption": "a"}], "record 0: .*not a path below the image folder"),
        ([{"image": "a.jpg", "caption": "a", "image_id": [1]}], r"'image_id' must be a string or a whole number"),
        (
            [{"image": "a.jpg", "caption": "a", "image_id": 1}, {"image": "b.jpg", "caption": "b", "image_id": 1}],
            r"image_id '1' is given to a\.jpg and b\.jpg",
        ),
    ],
)
def test_broken_captions_are_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_captions(write(tmp_path / "a.json", content))
    assert "a.json" in str(error.value)


@pytest.mark.parametrize(
    "record, message",
    [
        ({"image": "a.jpg"}, "'elems' must be a list of objects"),
        ({"image": "a.jpg", "elems": ["b"]}, "'elems' must be a list of objects"),
        ({"image": "a.jpg", "elems": [{"caption": "b", "bb": [1, 2, 3]}]}, r"needs 'bb', \[x, y, width, height\]"),
        ({"image": "a.jpg", "elems": [{"caption": "b", "bb": [1, 2, 3, "4"]}]}, "needs 'bb'"),
        ({"image": "a.jpg", "elems": [{"bb": [1, 2, 3, 4]}]}, "needs 'caption'"),
        ({"image": "a.jpg", "elems": [], "width": 0, "height": 3}, r"pixels above 0, got \[0, 3\]"),
        ({"image": "../a.jpg", "elems": []}, "not a path below"),
    ],
)
def test_broken_regions_are_named(tmp_path: Path, record: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf"vg\.json, record 0: .*{message}"):
        read_regions(write(tmp_path / "vg.json", [record]), size)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*none\.json .*paths\.data"):
        read_captions(tmp_path / "none.json")
