"""What is read of a folder to evaluate a model as it is."""

import json
from collections import Counter

import pytest
from PIL import Image

from vlp_bench.data.datasets.evaluated import CAPTIONS, CLASSES, EXAM, FORMATS, QUESTIONS, Place


@pytest.mark.parametrize(
    "limit, counts", [(3, [1, 1, 1]), (5, [2, 2, 1]), (8, [3, 3, 2]), (9, [3, 3, 3]), (20, [3, 3, 3])]
)
def test_a_limit_takes_of_all_classes_alike(tmp_path, limit, counts):
    """More than half of the images too: the folders come one after the other."""
    for name in ("ant", "bee", "cow"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (2, 2)).save(tmp_path / name / f"{number}.png")
    records = Place(str(tmp_path), "imagefolder", limit=limit).read(CLASSES).records
    assert sorted(Counter(record.label for record in records).values(), reverse=True) == counts
    assert len({record.image for record in records}) == sum(counts)


@pytest.mark.parametrize("kind, form", [(CAPTIONS, "karpathy"), (CAPTIONS, "salesforce"), (QUESTIONS, "vqav2")])
def test_a_split_that_is_none_is_said(tmp_path, kind, form):
    with pytest.raises(ValueError, match=r"^data\.split=tests: use one of train, val, test; did you mean test\?$"):
        Place(str(tmp_path), form, split="tests").read(kind)


def test_names_of_classes_in_another_form_say_which_is_read(tmp_path):
    (tmp_path / "ant").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "ant" / "0.png")
    names = tmp_path / "names.json"
    names.write_text('{"ant": "an ant"}')
    with pytest.raises(
        ValueError, match=r"names\.json does not say how 1 classes .* first is ant: .* \('ant NAME'\), or a CSV"
    ):
        Place(str(tmp_path), "imagefolder", names=str(names)).read(CLASSES)
    names.write_text("ant an ant\n")
    assert Place(str(tmp_path), "imagefolder", names=str(names)).read(CLASSES).labelled.names == ("an ant",)


def test_a_limit_takes_of_all_subjects_alike(tmp_path):
    for split, count in (("dev", 1), ("test", 4)):
        (tmp_path / split).mkdir()
        for subject in ("algebra", "biology", "chemistry"):
            lines = "".join(f"{subject} {number},1,2,3,4,A\n" for number in range(count))
            (tmp_path / split / f"{subject}_{split}.csv").write_text(lines)
    records = Place(str(tmp_path), FORMATS[EXAM][0], limit=6).read(EXAM).records
    assert [record.question for record in records] == [
        f"{subject} {number}" for subject in ("algebra", "biology", "chemistry") for number in (0, 2)
    ]


def test_one_image_of_many_that_is_not_there_is_named(tmp_path):
    """And those alone that will be opened; images of COCO's folders are found by name."""
    (tmp_path / "val2017").mkdir()
    for number in range(39):
        (tmp_path / ("val2017" if number % 2 else ".") / f"{number}.png").touch()
    records = [{"image": f"{number}.png", "caption": "a"} for number in range(40)]
    (tmp_path / "test.json").write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"file names images that are not in .*, 1 of 40: 39\.png; fetch them"):
        Place(str(tmp_path), "salesforce").read(CAPTIONS)
    assert len(Place(str(tmp_path), "salesforce", limit=39).read(CAPTIONS).records) == 39


@pytest.mark.parametrize(
    "record, says",
    [({"answers": ["x"]}, r"json, record 1: needs 'answer', .* got None; 'answers' is there: call it 'answer'$"),
     ({"label": {"x": 1.0}}, r"record 1: needs 'answer', .*'label' is there"),
     ({"answer": {"x": 1.0}}, r"record 1: needs 'answer', an answer or a list .* \(texts\), got \{'x': 1\.0\}$"),
     ({}, r"has 1 of 2 questions without answers, the first is question_id 7: give a split with answers$")],
)  # fmt: skip
def test_answers_that_are_called_otherwise_are_not_taken_for_none(tmp_path, record, says):
    (tmp_path / "a.png").touch()
    asked = {"question_id": 6, "image": "a.png", "question": "what?"}
    (tmp_path / "test.json").write_text(json.dumps([asked | {"answer": "x"}, asked | {"question_id": 7} | record]))
    with pytest.raises(ValueError, match=says):
        Place(str(tmp_path), "salesforce").read(QUESTIONS)


def test_the_file_that_has_no_answers_beside_it_is_told_which_is_looked_for(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "test_questions.json").write_text(
        json.dumps({"questions": [{"question_id": 1, "image_id": "a.png", "question": "what?"}]})
    )
    with pytest.raises(ValueError, match=r"1 of 1 questions .*\(they are read from test_annotations\.json beside it\)"):
        Place(str(tmp_path), "vqav2").read(QUESTIONS)
