"""Tables say what JSON lists say, by the same names and rules; what is wrong is named by file and line."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support import own_folder
from vlp_bench.data import checking
from vlp_bench.data.datasets.own import Files, OwnCaptions, OwnPairs, OwnQuestions, found, own_data
from vlp_bench.data.readers import formats
from vlp_bench.data.readers.annotations import read_captions, read_pairs, read_questions
from vlp_bench.data.readers.calibration_sets import CAPTIONS, read_set
from vlp_bench.data.records import Question

CAPTIONED = [
    {"image": "a.png", "caption": 'a "red" dog, asleep', "image_id": "7"},
    {"image": "b.png", "caption": "two\nlines", "image_id": "8"},
    {"image": "a.png", "caption": "a dog", "image_id": "7"},
]
ASKED = [
    {"question_id": "q1", "image": "a.png", "question": "what, exactly?", "answer": ["red", "red", "dark; red"]},
    {"question_id": "q2", "image": "b.png", "question": "how many?", "answer": ["2", "two", "none"]},
]
PAIRED = [
    {"images": ["a.png", "b.png"], "sentence": "both are red", "label": "True"},
    {"images": ["b.png", "a.png"], "sentence": "one is not", "label": "False"},
]
Read = Callable[[str | Path], Sequence[Any]]


def tabled(file: Path, records: Sequence[dict[str, Any]], separator: str = ",", end: str = "\n") -> Path:
    """Records as a spreadsheet writes them: a list takes a column of its key's name for each of its items."""
    widths = {key: len(value) if isinstance(value, list) else 1 for key, value in records[0].items()}
    with file.open("w", encoding="utf-8-sig", newline="") as opened:
        writer = csv.writer(opened, delimiter=separator, lineterminator=end)
        writer.writerow([key for key, width in widths.items() for _ in range(width)])
        for record in records:
            cells = [value if isinstance(value, list) else [value] for value in record.values()]
            writer.writerow([cell for listed in cells for cell in listed])
    return file


@pytest.mark.parametrize(
    ("read", "records"), [(read_captions, CAPTIONED), (read_questions, ASKED), (read_pairs, PAIRED)]
)
@pytest.mark.parametrize(
    ("name", "separator", "end"), [("a.csv", ",", "\r\n"), ("A.CSV", ";", "\n"), ("a.tsv", "\t", "\n")]
)
def test_a_table_says_what_the_list_says(tmp_path, read: Read, records, name, separator, end) -> None:
    (tmp_path / "a.json").write_text(json.dumps(records))
    told = read(tmp_path / "a.json")
    assert len(told) == 2
    assert read(tabled(tmp_path / name, records, separator, end)) == told


def test_a_column_that_stands_once_is_one_text_and_an_empty_cell_is_none(tmp_path) -> None:
    """As questions of a test split have no answer; the columns of an index and of nobody's business are left aside."""
    (tmp_path / "a.csv").write_text(
        ',image,question_id,question,answer,note\n0,a.png,1,"what, now",,x\n\n1,b.png,2,why,no,\n,,,,,\n'
    )
    first, second = read_questions(tmp_path / "a.csv")
    assert (first.question, first.answers, first.question_id) == ("what, now", (), "1")
    assert second.answers == ("no",)
    (tmp_path / "b.csv").write_text('image, caption, caption\na.png, "red, and dark", \nb.png, one, two\n')
    assert [image.captions for image in read_captions(tmp_path / "b.csv")] == [("red, and dark",), ("one", "two")]


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (read_captions, "image,caption\na.png,red\nb.png,\n", r"line 3: needs 'caption', a text .*, got None"),
        (read_captions, "image,caption\n,red\n", r"line 2: needs 'image', the path of the image, got None"),
        (read_captions, 'image,caption\na.png,"two\nlines"\n\n,red\n', r"line 5: needs 'image'"),
        (read_captions, "image,caption\na.png,red, and dark\n", r"line 2 has 3 columns where .* in quotes"),
        (read_captions, "image,caption\na.png\n", r"line 2 has 1 column where the first line has 2"),
        (read_captions, "a.png,red\nb.png,blue\n", r"line 1 must name the columns image, caption; it names a.png, red"),
        (read_captions, "file_name,text\na.png,red\n", r"line 1 must name the columns image, caption; it names file_"),
        (read_captions, "\nimage,caption\na.png,red\n", r"line 1 must name the columns image, caption; it names none$"),
        (read_captions, "", r"line 1 must name the columns image, caption; it names none$"),
        (read_captions, "image,caption\n", r"is empty, it has no record"),
        (read_captions, 'image,caption\na.png,red\nb.png,"a dog\nc.png,cat\n', r"line 3: unexpected end of data; put"),
        (read_captions, 'image,caption\na.png,"a" dog\n', r"line 2: ',' expected after '\"'; put a text with"),
        (read_captions, f'image,caption\na.png,"{"x" * 200_000}\n', r"line 2: field larger than field limit"),
        (read_captions, "image,caption\n../a.png,red\n", r"line 2: '../a.png' is not a path below the image folder"),
        (read_questions, "question_id,image,question\n,a.png,why\n", r"line 2: 'question_id' must be a string"),
        (read_questions, "image,question\na.png,why\n", r"line 1 must name the columns question_id, question, image"),
        (read_pairs, "images,images,sentence,label\na.png,,x,True\n", r"line 2: needs 'images', the paths of a left"),
        (read_pairs, "images,images,sentence,label\na.png,b.png,x,TRUE\n", r"line 2: 'label' must be 'True'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_named_by_file_and_line(tmp_path, read: Read, text, says) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        read(tmp_path / "mine.csv")
    assert str(error.value).startswith(str(tmp_path / "mine.csv"))
    assert "\n" not in str(error.value)


def test_every_bad_row_is_told_in_one_go(tmp_path) -> None:
    (tmp_path / "mine.csv").write_text("image,caption\na.png,\nb.png,red\n,red\n")
    read = lambda: formats.captions(tmp_path / "mine.csv", tmp_path)  # noqa: E731
    report, split = checking.check("mine", read)
    assert split is not None
    assert len(split.records) == 1
    [line] = report.problems
    assert line.startswith("2 records are wrong")
    assert "mine.csv, line 2: needs 'caption'" in line
    assert "mine.csv, line 4: needs 'image'" in line


@pytest.mark.parametrize(
    ("kind", "make", "read"),
    [("captions", OwnCaptions, "captions"), ("questions", OwnQuestions, "questions"), ("pairs", OwnPairs, "pairs")],
)
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_tables_are_data_of_ones_own(tmp_path, kind, make, read, ending) -> None:
    """With the splits, images and calibration of the lists; images are opened."""
    root = own_folder.write_as(tmp_path / "mine", kind, "salesforce", 30)
    told = Files(str(root), "salesforce").source(make)
    expected = {split: getattr(told, read)(split).records for split in own_folder.SPLITS}
    shown = told.general().records
    for file in root.glob("*.json"):
        tabled(file.with_suffix(ending), json.loads(file.read_text()), "\t" if ending == ".tsv" else ",")
        file.unlink()
    source = Files(str(root), "salesforce").source(make)
    plain = [_named(getattr(source, read)(split).records) for split in own_folder.SPLITS]
    assert plain == [_named(expected[split]) for split in own_folder.SPLITS]
    assert source.general().records == shown
    first = getattr(source, read)("train")
    assert first.images.open(checking.keys(first.records[0])[0]).size == (40, 32)


def _named(records: Sequence[Any]) -> list[Any]:
    """Records as a table can say them: its numbers are texts."""
    return [replace(r, question_id=str(r.question_id)) if isinstance(r, Question) else r for r in records]


def test_a_list_in_json_goes_before_a_table_of_the_same_split(tmp_path) -> None:
    """What lies beside, such as numbers of an earlier test, is no second list."""
    for name in ("train.csv", "val.csv", "test_results.csv", "test.json"):
        (tmp_path / name).touch()
    places = [found(tmp_path, "salesforce", split).name for split in own_folder.SPLITS]
    assert places == ["train.csv", "val.csv", "test.json"]
    (tmp_path / "val.tsv").touch()
    with pytest.raises(ValueError, match=r"2 fit \(val\.csv, val\.tsv\) \(looked for a \.json or .* or \.tsv file"):
        found(tmp_path, "salesforce", "val")
    for form in ("coco", "nlvr2"):
        with pytest.raises(ValueError, match="none is there"):
            found(tmp_path, form, "train")


def test_a_table_of_another_form_names_the_key(tmp_path) -> None:
    for split in own_folder.SPLITS:
        (tmp_path / f"{split}.csv").write_text("image,caption\na.png,red\n")
    words: dict[str, Any] = {"train": "train.csv", "val": "val.csv", "test": "test.csv"}
    task, calibration = "vlp_bench.tasks.retrieval.Retrieval", cast(Any, SimpleNamespace())
    with pytest.raises(ValueError, match=r"looks like the lists of X-VLM.*: set data\.format=salesforce$"):
        own_data(task=task, calibration=calibration, root=str(tmp_path), format="coco", **words)


def test_what_a_set_to_calibrate_on_shows_is_told_by_all_of_its_rows(tmp_path) -> None:
    """Its first row lacks the image: the others' images were left aside, and the captions taken for plain texts."""
    own_folder.drawn("circle", "red", 0).save(tmp_path / "a.png")
    file = tmp_path / "captions.csv"
    file.write_text("file_name,text\n,one\na.png,two\n")
    with pytest.raises(ValueError, match=r"captions\.csv, line 2: needs 'image'"):
        read_set(file)
    file.write_text("file_name,text\na.png,two\n")
    found = read_set(file.rename(tmp_path / "captions.CSV"))
    assert (found.kind, found.records[0].text) == (CAPTIONS, "two")
    file.write_text('file_name,text\na.png,"two\n')
    with pytest.raises(ValueError, match=r"captions\.csv, line 2: unexpected end of data"):
        read_set(file)
