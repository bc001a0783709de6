"""Folders as people have them: hidden files, links, images too deep, files that are no images; nothing goes unsaid."""

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from vlp_bench.data.datasets.evaluated import CLASSES, Place
from vlp_bench.data.datasets.own import Files
from vlp_bench.data.readers.calibration_sets import read_set
from vlp_bench.data.readers.classes import read_folders
from vlp_bench.data.readers.formats import class_folders
from vlp_bench.data.readers.image_files import images_below
from vlp_bench.data.readers.shards import read_triplets


def written(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() in (".txt", ".db"):
            file.write_text("a red dog")
        else:
            Image.new("RGB", (4, 4)).save(file, format="GIF" if file.suffix == ".gif" else "JPEG")
    return root


def test_hidden_folders_are_no_classes(tmp_path):
    hidden = (".ipynb_checkpoints/1.jpg", "__MACOSX/cat/._1.jpg", "cat/._1.jpg", "cat/.DS_Store.txt")
    written(tmp_path, "cat/1.jpg", "dog/2.JPG", *hidden)
    data = Place(str(tmp_path), "imagefolder").read(CLASSES)
    assert (data.folders, data.labelled.names) == (("cat", "dog"), ("cat", "dog"))
    assert [(r.image, r.label) for r in data.records] == [("cat/1.jpg", 0), ("dog/2.JPG", 1)]
    assert read_set(tmp_path).classes == ("cat", "dog")
    assert not class_folders(written(tmp_path / "other", ".git/1.jpg"))


def test_what_is_left_out_is_told_and_gifs_are_not(tmp_path, caplog):
    written(tmp_path, "cat/1.gif", "cat/2.jfif", "cat/a/b/3.jpg", "cat/Thumbs.db", "dog/4.jpg", "dog/boxes.txt")
    (tmp_path / "fish").mkdir()
    with caplog.at_level(logging.WARNING):
        found = read_folders(tmp_path)
    assert [record.image for record in found.records] == ["cat/1.gif", "cat/2.jfif", "dog/4.jpg"]
    assert [line.removeprefix(f"{tmp_path}: ") for line in caplog.messages] == [
        "1 class folder without an image, a class all the same: fish",
        "left out 1 image deeper than <class>/<image>, the first is cat/a/b/3.jpg",
        "left out 2 files whose names end as no image's, the first is cat/Thumbs.db",
    ]


def test_images_that_all_lie_too_deep_are_named(tmp_path):
    written(tmp_path, "n01/images/1.JPEG", "n01/boxes.txt")
    with pytest.raises(ValueError, match=r"holds no <class>/<image>; .*left out 1 image deeper .* n01/images/1\.JPEG"):
        read_folders(tmp_path)


def test_links_are_followed_and_circles_are_not(tmp_path):
    written(tmp_path / "store", "1.jpg", "1.txt")
    root = written(tmp_path / "set", "own/2.jpg", "own/2.txt")
    os.symlink(tmp_path / "store", root / "linked")
    os.symlink(root, root / "own" / "circle")
    assert [image.relative_to(root).as_posix() for image in images_below(root)] == ["linked/1.jpg", "own/2.jpg"]
    assert [record.image for record in read_triplets(root)] == ["linked/1.jpg", "own/2.jpg"]
    assert [row.images for row in read_set(root).records] == [("linked/1.jpg",), ("own/2.jpg",)]


def test_splits_of_class_folders_by_the_names_people_give(tmp_path):
    written(tmp_path, "Train/cat/1.jpg", "Train/dog/1.jpg", "valid/cat/2.jpg", "valid/dog/2.jpg")
    data = Place(str(tmp_path), "imagefolder").read(CLASSES)
    assert (data.folders, len(data.records)) == (("cat", "dog"), 2)
    source = Files(str(tmp_path), "imagefolder").labelled()
    for split in ("train", "val", "test", "calibration"):
        read = source.labelled(split)
        assert read.images.open(read.records[0].image).size == (4, 4)
    assert source.splits == {"train": "Train", "val": "valid", "test": "valid", "calibration": "Train"}
    with pytest.raises(ValueError, match=r"^data\.split=other: which folder of .* It has Train, valid; name it with"):
        Place(str(tmp_path), "imagefolder", split="other").read(CLASSES)
    (tmp_path / "dev").mkdir()
    with pytest.raises(ValueError, match=r"^data\.split=test: .* It has Train, dev, valid; name it with data\.test=F"):
        Place(str(tmp_path), "imagefolder").read(CLASSES)
    (tmp_path / "dev").rmdir()
    (tmp_path / "Train").rename(tmp_path / "trained")
    with pytest.raises(
        ValueError, match=r"which folder has the train split .* a folder train or training or trainset\); call one"
    ):
        Files(str(tmp_path), "imagefolder").labelled()


def test_a_training_split_is_not_tested_where_no_other_is_there(tmp_path):
    written(tmp_path, "train/cat/1.jpg")
    with pytest.raises(ValueError, match=r"^data\.split=test: .* It has train; name it with data\.test=FOLDER$"):
        Place(str(tmp_path), "imagefolder").read(CLASSES)
