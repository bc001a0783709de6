"""What stands twice, is cut off or is called otherwise is told, by file and record and with the cure."""

import io
import json
import logging
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vlp_bench.data.readers import checked, formats
from vlp_bench.data.readers.annotations import read_captions
from vlp_bench.data.readers.classes import read_folders
from vlp_bench.data.readers.coco import read_coco, read_vqa
from vlp_bench.data.readers.genome import read_nlvr2
from vlp_bench.data.readers.shards import Shards


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- tars ---


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def packed(*names: str) -> bytes:
    """A tar of images and captions of these names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            content = b"a word" if name.endswith(".txt") else picture()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


TWO = ("a.png", "a.txt", "b.png", "b.txt")


def shard(folder: Path, content: bytes) -> Shards:
    (folder / "0.tar").write_bytes(content)
    return Shards(folder)


def test_a_whole_shard_is_read(tmp_path: Path) -> None:
    assert [r.image for r in shard(tmp_path, packed(*TWO)).captions()] == ["0.tar/a.png", "0.tar/b.png"]


@pytest.mark.parametrize("members", [1, 2, 3, 4])
@pytest.mark.parametrize("more", [0, 100, 511])
def test_a_shard_that_is_cut_off_is_refused_wherever(tmp_path: Path, members: int, more: int) -> None:
    """Every member takes a header and one block of content; tarfile itself ends without a word at a header's fault."""
    whole = packed(*TWO)
    with pytest.raises(ValueError, match=r"0\.tar.*(cut off|unexpected end)"):
        shard(tmp_path, whole[: 1024 * members + more]).captions()


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    content = bytearray(packed(*TWO))
    content[2048:2060] = b"\xff" * 12
    with pytest.raises(ValueError, match=r"0\.tar.*what follows byte 2048 is no header; it is damaged"):
        shard(tmp_path, bytes(content)).captions()


def test_joined_tars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"more follows its end mark at byte 2048; were tars joined"):
        shard(tmp_path, packed("a.png", "a.txt") + packed("b.png", "b.txt")).captions()


def test_a_member_stored_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"0\.tar: the member 'a\.png' stands twice"):
        shard(tmp_path, packed("a.png", "a.txt", "./a.png")).captions()


def test_members_that_are_left_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = io.BytesIO(packed(*TWO))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    with caplog.at_level(logging.WARNING):
        assert len(shard(tmp_path, buffer.getvalue()).captions()) == 2
    assert "left out 1 member, links or larger than" in caplog.text


# --- lists ---


def test_a_key_that_stands_twice_in_an_object_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", '[{"image": "a.jpg", "caption": "a", "caption": "b"}]')
    with pytest.raises(ValueError, match=r"a\.json: the key 'caption' stands twice in .*only one of them can be meant"):
        read_captions(file)


def test_an_image_under_two_ids_is_refused(tmp_path: Path) -> None:
    records = [{"image": "a.jpg", "caption": c, "image_id": i} for i, c in ((1, "x"), (2, "y"))]
    with pytest.raises(ValueError, match=r"a\.json: a\.jpg has the image_ids '1' and '2'; give one image one id"):
        read_captions(written(tmp_path / "a.json", records))
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]
    told = [{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": "y"}]
    with pytest.raises(ValueError, match=r"c\.json: the image 'a\.jpg' stands twice"):
        read_coco(written(tmp_path / "c.json", {"images": images, "annotations": told}))


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    file = written(tmp_path / "c.json", {"images": images, "annotations": [{"image_id": 1, "caption": "x"}]})
    with pytest.raises(ValueError, match="the image id '1' stands twice"):
        read_coco(file)
    lines = [json.dumps({"identifier": "dev-1-0-0", "sentence": "x", "label": label}) for label in ("True", "False")]
    with pytest.raises(ValueError, match="the identifier 'dev-1-0-0' stands twice"):
        read_nlvr2(written(tmp_path / "dev.json", "\n".join(lines)))
    asked = {"data_subtype": "val2014", "questions": [{"image_id": 1, "question": "who", "question_id": 5}]}
    answer = {"question_id": 5, "answers": [{"answer": "me"}]}
    written(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": [answer, answer]})
    with pytest.raises(ValueError, match=r"annotations\.json: question_id 5 stands twice"):
        read_vqa(written(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", asked))


def test_what_is_said_twice_is_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = {"image": "a.jpg", "caption": "a dog"}
    file = written(tmp_path / "a.json", [record, record, {"image": "b.jpg", "caption": "a cat"}])
    with caplog.at_level(logging.WARNING):
        split = formats.captions(file, tmp_path)
    assert [len(r.captions) for r in split.records] == [2, 1]
    [line] = [r.getMessage() for r in caplog.records]
    assert line == f"{file}: 1 caption is given twice to the same image: a.jpg: 'a dog'"


def test_two_labels_of_one_pair_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = {"images": ["a.png", "b.png"], "sentence": "both are red"}
    with caplog.at_level(logging.WARNING):
        formats.pairs(written(tmp_path / "a.json", [pair | {"label": said} for said in ("True", "False")]), tmp_path)
    assert "1 sentence is said twice of the same pair" in caplog.text
    assert "1 image or pair has two labels: a.png and b.png: 'both are red'" in caplog.text


def test_all_bad_records_are_collected(tmp_path: Path) -> None:
    good = {"image": "a.jpg", "caption": "x"}
    file = written(tmp_path / "a.json", [{"image": "a.jpg"}, good, {"caption": "x"}, 7])
    with checked.collecting() as faults:
        assert len(read_captions(file)) == 1
    assert [int(f.split("record ")[1].split(":")[0]) for f in faults] == [0, 2, 3]
    with pytest.raises(ValueError, match="record 0"):
        read_captions(file)


def test_a_key_that_is_called_otherwise_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", [{"img": "a.jpg", "text": "a dog"}])
    with pytest.raises(ValueError, match=r"record 0: needs 'image', .* 'img' is there: call it 'image'"):
        read_captions(file)


# --- names of images in VQA's form ---


@pytest.mark.parametrize(
    "extra, record, image",
    [
        ({"data_subtype": "train2014"}, {"image_id": 7}, "train2014/COCO_train2014_000000000007.jpg"),
        ({}, {"image_id": "shop/7.png"}, "shop/7.png"),
        ({}, {"image_id": 7, "image": "shop/seven.webp"}, "shop/seven.webp"),
        ({"images": [{"id": 7, "file_name": "7.jpeg"}]}, {"image_id": 7}, "7.jpeg"),
        ({"images": [{"id": 7, "file_name": "7.jpeg"}], "data_subtype": "val2014"}, {"image_id": 7}, "7.jpeg"),
    ],
)
def test_vqa_reads_any_name_it_can_join(tmp_path: Path, extra: object, record: object, image: str) -> None:
    assert isinstance(extra, dict)
    assert isinstance(record, dict)
    content = extra | {"questions": [record | {"question": "who", "question_id": 1}]}
    assert read_vqa(written(tmp_path / "q.json", content))[0].image == image


def test_vqa_without_a_name_says_what_would_give_one(tmp_path: Path) -> None:
    content = {"questions": [{"image_id": 7, "question": "who", "question_id": 1}]}
    with pytest.raises(ValueError, match="record 0: has image_id 7 and no file's name: give it 'image', or the file"):
        read_vqa(written(tmp_path / "q.json", content))


def test_a_class_called_twice_is_refused(tmp_path: Path) -> None:
    for name in ("n1", "n2"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / name / "a.png")
    names = written(tmp_path / "names.txt", "n1 dog\nn2 cat\nn1 wolf\n")
    with pytest.raises(ValueError, match="the folder 'n1' stands twice"):
        read_folders(tmp_path / "train", names)
