"""Calibration sets of a stranger: what is recognised, what is drawn, and every mistake in one line with its place."""

import json

import numpy as np
import pytest
from PIL import Image

from vlp_bench.data.readers.calibration_sets import CAPTIONS, CHATS, TEXTS, read_set


def picture(path, mode="RGB", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), **more).save(path, **({"exif": EXIF} if path.suffix == ".jpg" else {}))
    return path


EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by a quarter


def lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_folder_with_a_list(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "images" / "b.png")
    for name, rows in (
        ("captions.jsonl", [{"file_name": "a.png", "caption": "one"}, {"image": "b.png", "text": "two"}]),
        ("metadata.jsonl", [{"image": "a.png", "caption": ["one", "more"]}, {"file_name": "b.png", "caption": "two"}]),
    ):
        file = lines(tmp_path / name, *rows)
        found = read_set(tmp_path)
        assert found.kind == CAPTIONS
        assert [(row.images, row.text) for row in found.records] == [(("a.png",), "one"), (("images/b.png",), "two")]
        file.unlink()


def test_a_folder_in_karpathy_s_format(tmp_path):
    picture(tmp_path / "a.png")
    images = [{"filename": "a.png", "filepath": "", "split": "train", "sentids": [0], "imgid": 0, "cocoid": 1,
               "sentences": [{"raw": "one", "tokens": ["one"], "imgid": 0, "sentid": 0}]}]  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    found = read_set(tmp_path)
    assert (found.kind, found.records[0].text) == (CAPTIONS, "one")
    assert found.examples(1)[0].images[0].size == (6, 4)


def test_texts_beside_images_and_images_alone(tmp_path):
    picture(tmp_path / "deep" / "a.png").with_suffix(".txt").write_text("one\nmore\n")
    found = read_set(tmp_path)
    assert found.records[0].text == "one more"
    assert found.records[0].images == ("deep/a.png",)
    picture(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has no b\.txt beside it"):
        read_set(tmp_path)
    (tmp_path / "deep" / "a.txt").unlink()
    assert [row.text for row in read_set(tmp_path).records] == ["", ""]


def test_texts(tmp_path):
    assert read_set(lines(tmp_path / "a.jsonl", {"text": "one"}, "", {"text": "two"})).kind == TEXTS
    found = read_set(lines(tmp_path / "a.txt", "one", "", "two"))
    assert [row.text for row in found.records] == ["one", "two"]


def test_chats(tmp_path):
    picture(tmp_path / "a.png")
    shown = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "What?"}]
    row = {"messages": [{"role": "user", "content": shown}, {"role": "assistant", "content": "Red."}]}
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    (tmp_path / "llava.json").write_text(json.dumps([{"id": 0, "image": "a.png", "conversations": turns}]))
    for found in (read_set(lines(tmp_path / "a.jsonl", row)), read_set(tmp_path / "llava.json")):
        assert found.kind == CHATS
        [record] = found.records
        assert record.images == ("a.png",)
        assert [message["role"] for message in record.messages] == ["user", "assistant"]
        assert record.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]


SHOWN = [{"type": "image"}, {"type": "text", "text": "What?"}]
URL = {"type": "image_url"}
SAID = {"role": "assistant", "content": "Red."}


@pytest.mark.parametrize(
    "row",
    [
        {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>What?"}, SAID]},
        {"images": ["a.png"], "messages": [{"role": "user", "content": SHOWN}, SAID]},
        {"image": "a.png", "conversations": [{"role": "user", "content": "<image>\nWhat?"}, SAID]},
        {"images": "a.png", "messages": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Red."}]},
        {"messages": [{"role": "user", "content": [URL | {"image_url": {"url": "a.png"}}, SHOWN[1]]}, SAID]},
        {"messages": [{"role": "user", "content": [URL | {"image_url": "a.png"}, SHOWN[1]]}, SAID]},
    ],
)  # fmt: skip
def test_dialects_of_chats(tmp_path, row, caplog):
    """Images listed beside the turns are shown where their mark stands; names of roles and keys are free."""
    picture(tmp_path / "a.png")
    [record] = read_set(lines(tmp_path / "a.jsonl", row)).records
    assert record.images == ("a.png",)
    assert [message["role"] for message in record.messages] == ["user", "assistant"]
    assert record.messages[0]["content"] == SHOWN
    assert record.messages[1]["content"] == [{"type": "text", "text": "Red."}]
    assert not caplog.messages


def test_a_mark_is_a_text_where_no_image_is_listed(tmp_path):
    row = {"messages": [{"role": "developer", "content": "Say <image>."}]}
    [record] = read_set(lines(tmp_path / "a.jsonl", row)).records
    assert record.messages == ({"role": "system", "content": [{"type": "text", "text": "Say <image>."}]},)


@pytest.mark.parametrize(
    "name, content",
    [
        ("metadata.csv", '\ufefffile_name,text\r\na.png,"red, and dark"\r\nb.png,blue\r\n'),
        ("captions.txt", 'image,caption\na.png,"red, and dark"\nb.png,blue\n'),
        ("list.tsv", "path\tcaption\tsource\na.png\tred, and dark\t\nb.png\tblue\tx\n"),
    ],
)
def test_a_table_of_images_and_captions(tmp_path, name, content):
    """Alone in the folder it is the folder's list; images may lie in images/ below it."""
    picture(tmp_path / "a.png"), picture(tmp_path / "images/b.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    for place in (tmp_path, tmp_path / name):
        found = read_set(place)
        assert found.kind == CAPTIONS
        assert [(*row.images, row.text) for row in found.records] == [
            ("a.png", "red, and dark"),
            ("images/b.png", "blue"),
        ]


def test_a_table_of_texts(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,one\n2,"two, three"\n')
    assert [row.text for row in read_set(tmp_path / "a.csv").records] == ["one", "two, three"]


def test_a_list_below_the_folder_is_not_overlooked(tmp_path):
    picture(tmp_path / "train/a.png")
    lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "text": "one"})
    with pytest.raises(ValueError, match=r"no list lies there, but .*metadata\.jsonl does; give calibration=.*train$"):
        read_set(tmp_path)


def test_classes_that_cannot_be_told_are_said(tmp_path, caplog):
    for name in ("train/red/a.png", "train/blue/b.png"):
        picture(tmp_path / name)
    assert read_set(tmp_path / "train").classes == ("blue", "red")
    assert not caplog.messages
    assert read_set(tmp_path).classes == ()
    assert "its images are of no class" in caplog.text


def test_examples_are_drawn_once_by_a_seed(tmp_path):
    found = read_set(lines(tmp_path / "a.txt", *(f"text {n}" for n in range(50))))
    drawn = [[e.text for e in found.examples(20, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert len(found.examples(80)) == 50


def test_images_are_upright_and_transparency_is_white(tmp_path):
    """A processor that obeys EXIF finds none to obey once more."""
    picture(tmp_path / "a.jpg", color="red")
    picture(tmp_path / "b.png", "RGBA", color=(0, 0, 0, 0))
    images = {e.images[0].size: e.images[0] for e in read_set(tmp_path).examples(2)}
    assert set(images) == {(4, 6), (6, 4)}
    assert not any(image.getexif() for image in images.values())
    assert np.asarray(images[6, 4]).min() == 255


@pytest.mark.parametrize(
    "rows, message",
    [
        (["{"], r"line 1 is not JSON .* write one JSON object a line"),
        ([{"text": "one"}, {"text": ""}], r"line 2: needs 'text', a text with at least one word"),
        ([{"text": "one"}, {"txt": "two"}], r"line 2: needs 'text'.* its keys are \['txt'\]"),
        ([{"text": "one"}, "[1]"], r"line 2: is a list, not an object"),
        ([{"words": "one"}], r"line 1: its keys are 'words'; give a folder of images"),
        ([{"image": "../a.png", "caption": "one"}], r"line 1: '../a.png' is not a path below the image folder"),
        ([{"image": "/etc/a.png", "caption": "one"}], r"line 1: '/etc/a.png' is not a path below"),
        ([{"image": "https://x.org/a.png", "caption": "one"}], r"line 1: 'https://x.org/a.png' is not a path below"),
        ([{"image": "gone.png", "caption": "one"}], r"line 1: there is no image .*gone.png: paths start from"),
        ([{"image": "a.png"}], r"line 1: needs 'caption', a text or a list of texts"),
        (
            [{"image": "a.png", "captions": ["one"]}],
            r"line 1: needs 'caption'.* 'captions' is there: call it 'caption'",
        ),
        (['"one"'], r"line 1: 'one' is no object; give a folder of images"),
        ([{"messages": [{"role": "user", "content": None}]}], r"line 1: needs 'content', a text or a list of parts"),
        (
            [{"images": ["a.png", "a.png"], "messages": [{"role": "user", "content": "<image>What?"}]}],
            r"line 1: its conversation shows 1 images \(<image>\), 'images' gives 2; make them equal",
        ),
        ([{"messages": []}], r"line 1: needs 'messages', a list of at least one object, got \[\]"),
        ([{"messages": [{"role": "bot", "content": "x"}]}], r"line 1: 'role' must be one of .*, got 'bot'"),
        (
            [{"messages": [{"role": "user", "content": [{"type": "video"}]}]}],
            r"line 1: 'type' must be 'text', 'image' or 'image_url'",
        ),
        (
            [{"image": "a.png", "conversations": [{"from": "human", "value": "What?"}]}],
            r"line 1: its conversation shows 0 images \(<image>\), 'image' gives 1; make them equal",
        ),
    ],
)
def test_a_bad_record_is_named_with_its_line(tmp_path, rows, message):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message) as error:
        read_set(lines(tmp_path / "set.jsonl", *rows))
    assert "\n" not in str(error.value)
    assert str(tmp_path / "set.jsonl") in str(error.value)


def test_what_is_no_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.xml").write_text("a,b")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "cut.csv").write_text("text\none, two\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "odd.json").write_text('{"a": 1}')
    for name, message in (
        ("gone", "no such file or folder; give a folder of images with captions"),
        ("empty", "no image and no list lies there"),
        ("a.xml", r"its name ends in \.xml"),
        ("a.csv", "line 2: its keys are 'a', 'b'; give a folder of images"),
        ("cut.csv", "line 2 has 2 columns where the first line has 1; put a text that holds ',' in quotes"),
        ("latin.txt", "save it as UTF-8"),
        ("empty.jsonl", "is empty"),
        ("odd.json", "none of the formats that are known"),
    ):
        with pytest.raises(ValueError, match=message):
            read_set(tmp_path / name)


def test_several_lists_in_a_folder_are_not_guessed_among(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        lines(tmp_path / name, {"text": "one"})
    with pytest.raises(ValueError, match=r"a\.jsonl, b\.jsonl lie there; give the path of one of them"):
        read_set(tmp_path)
