"""Which split a file is of: by whole words, as people and the papers' authors name files."""

import json
from pathlib import Path

import pytest

from vlp_bench.data.datasets.evaluated import CAPTIONS, CORPUS, QUESTIONS, Place
from vlp_bench.data.datasets.own import found
from vlp_bench.data.readers import checked
from vlp_bench.data.readers.annotations import read_captions
from vlp_bench.data.readers.shards import Parquet
from vlp_bench.data.readers.split_names import NAMES, is_of, of_another, split_folders


@pytest.mark.parametrize(
    "name, splits",
    [
        ("retrieval_train", ["train"]), ("latest_train", ["train"]), ("train2014", ["train"]), ("dev", ["val"]),
        ("captions_val2017", ["val"]), ("validation-00000-of-00001", ["val"]), ("valid", ["val"]), ("VAL", ["val"]),
        ("valCaptions", ["val"]), ("test1", ["test"]), ("testdev_balanced_questions", ["test"]),
        ("v2_OpenEnded_mscoco_test-dev2015_questions", ["test"]), ("retrieval", []), ("evaluation", []),
        ("contest", []), ("latest", []), ("devices", []), ("trained", []), ("train_val", ["train", "val"]),
        ("latest_dev", ["val"]), ("trainset", ["train"]), ("my_valset", ["val"]), ("TestSet", ["test"]),
        ("testset", ["test"]), ("offset", []),
    ],
)  # fmt: skip
def test_a_name_says_its_split_by_whole_words(name, splits):
    assert [split for split in NAMES if is_of(name, split)] == splits
    assert [split for split in NAMES if of_another(name, split)] == [s for s in NAMES if splits and s not in splits]


def _written(root: Path, **files: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "a.jpg").touch()
    for name, caption in files.items():
        (root / f"{name}.json").write_text(json.dumps([{"image": "a.jpg", "caption": caption}]))
    return root


def test_training_data_are_never_tested_for_their_name(tmp_path, caplog):
    root = _written(tmp_path / "a", latest_train="of training", val="of validation")
    assert Place(str(root), "salesforce").read(CAPTIONS).records[0].captions == ("of validation",)
    assert "what is tested is the validation split" in caplog.text
    root = _written(tmp_path / "b", retrieval_train="a", retrieval_val="b", retrieval_test="c")
    told = [Place(str(root), "salesforce", split=split).read(CAPTIONS).records[0].captions[0] for split in NAMES]
    assert told == ["a", "b", "c"]
    root = _written(tmp_path / "c", retrieval_train="a", test="b")
    with pytest.raises(ValueError, match=r"which file has the val split .* none is there \(.*word val or valid"):
        found(root, "salesforce", "val")


def test_a_text_of_training_is_not_the_test_split_because_it_is_alone(tmp_path):
    (tmp_path / "train.txt").write_text("red dog")
    with pytest.raises(ValueError, match=r"which file is the text\? Of those there \(train\.txt\) name one"):
        Place(str(tmp_path), "text").read(CORPUS)
    (tmp_path / "train.txt").rename(tmp_path / "book.TXT")
    assert Place(str(tmp_path), "text").read(CORPUS).text == "red dog"


def test_what_lies_beside_the_official_files_is_left_aside(tmp_path):
    """The folders that COCO, VQAv2 and GQA give out, as they are unpacked."""
    names = {
        "coco": ("captions_val2014", "instances_val2014", "person_keypoints_val2014"),
        "vqav2": ("v2_OpenEnded_mscoco_val2014_questions", "v2_mscoco_val2014_annotations",
                  "v2_mscoco_val2014_complementary_pairs", "v2_OpenEnded_mscoco_test-dev2015_questions"),
        "gqa": ("val_balanced_questions", "val_sceneGraphs", "testdev_balanced_questions"),
    }  # fmt: skip
    for form, files in names.items():
        _written(tmp_path / form, **dict.fromkeys(files, "x"))
        assert found(tmp_path / form, form, "val").stem == files[0]
    _written(tmp_path / "mine", my_val="x")
    assert found(tmp_path / "mine", "vqav2", "val").stem == "my_val"


def test_lists_are_read_a_record_a_line_too(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").touch()
    (tmp_path / "images/b.jpg").touch()
    records = [{"image": "a.jpg", "caption": "red"}, {"image": "b.jpg", "caption": ["a", "b"]}]
    (tmp_path / "test.JSONL").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, records)).encode())
    assert [r.captions for r in Place(str(tmp_path), "salesforce").read(CAPTIONS).records] == [("red",), ("a", "b")]
    asked = {"question_id": 1, "image": "a.jpg", "question": "what?", "answer": "x"}
    (tmp_path / "val_questions.jsonl").write_text(json.dumps(asked))
    [question] = Place(str(tmp_path), "salesforce", split="val").read(QUESTIONS).records
    assert question.answers == ("x",)
    (tmp_path / "test.JSONL").rename(tmp_path / "test.json")
    with pytest.raises(ValueError, match=r"test\.json is not JSON .*; a file with an object a line is called \.jsonl$"):
        read_captions(tmp_path / "test.json")
    (tmp_path / "bad.jsonl").write_text('{"image": "a.jpg", "caption": "red"}\n\n{"image"\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 3 is not JSON"):
        checked.load(tmp_path / "bad.jsonl")
    lines = "\n".join(json.dumps({"image": f"{n}.jpg", "caption": "a" if n else ""}) for n in (1, 2, 0))
    (tmp_path / "val.jsonl").write_text(f"\n{lines}\n")
    with pytest.raises(ValueError, match=r"val\.jsonl, line 4: needs 'caption', .*, got ''$"):
        read_captions(tmp_path / "val.jsonl")
    (tmp_path / "test.xml").write_text("<a>")
    endings = r"\.json, \.jsonl, \.csv and \.tsv"
    with pytest.raises(ValueError, match=rf"test\.xml is not JSON .*; annotations are read from {endings} files$"):
        read_captions(tmp_path / "test.xml")


def test_folders_of_splits(tmp_path):
    for name in ("Train", "validation", "latest"):
        (tmp_path / name).mkdir()
    assert [[folder.name for folder in split_folders(tmp_path, split)] for split in NAMES] == [
        ["Train"], ["validation"], [],
    ]  # fmt: skip


def test_tables_of_a_split(tmp_path):
    for name in ("TRAIN-0", "validation-0", "latest"):
        (tmp_path / f"{name}.parquet").touch()
    assert [[file.stem for file in Parquet(tmp_path, split).files] for split in ("train", "val", None)] == [
        ["TRAIN-0"], ["validation-0"], ["TRAIN-0", "latest", "validation-0"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"holds no test\*\.parquet, only TRAIN-0\.parquet, latest\.parquet, valid"):
        Parquet(tmp_path, "test")
