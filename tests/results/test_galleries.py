"""Galleries: examples on which two runs part ways, of every task, with what each run said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.results.test_report import origin
from tests.results.test_row import row
from vlp_bench.construct import construct as build
from vlp_bench.results import examples
from vlp_bench.results.report import gallery, material
from vlp_bench.results.report.answers import Answers, Examples, examples_of
from vlp_bench.results.store import Store
from vlp_bench.runs.specification import specification_of
from vlp_bench.sweeps import galleries as command


def composed(*words):
    return specification_of(words).config


class Blue:
    def open(self, key):
        return Image.new("RGB", (300, 200), "blue")


def graded(*values, least=0.0):
    return Answers([f"text {v}" for v in values], np.array(values, float), least)


def test_examples_that_only_one_run_has_right():
    first, second = graded(0, 0, 0, -5), graded(0, -2, -9, 0)
    assert gallery.apart(first, second, 5).tolist() == [2, 1]  # the worst miss first
    assert gallery.apart(second, first, 5).tolist() == [3]
    assert gallery.apart(first, second, 1).tolist() == [2]


def test_where_nothing_is_right_or_wrong_the_larger_lead_comes_first():
    first, second = graded(120, 30, 80, 50, least=None), graded(110, 90, 10, 50, least=None)
    assert gallery.apart(first, second, 5).tolist() == [2, 0]
    assert gallery.apart(second, first, 5).tolist() == [1]


def test_exhibits_show_what_each_run_said():
    shown = Examples(Blue(), ["a", "b"], ["one", "three"], ["", "how many?"])
    [exhibit] = gallery.exhibits(shown, graded(0, 0), graded(0, -1), count=3)
    assert (exhibit.right, exhibit.first, exhibit.second, exhibit.asked) == ("three", "text 0", "text -1", "how many?")
    assert exhibit.picture.startswith("data:image/png;base64,")


@pytest.mark.parametrize("exp", ["xvlm_itr", "xvlm_ic", "xvlm_vqa", "dino_cls"])
def test_the_examples_of_a_task_are_those_its_model_is_tested_on(exp):
    config = composed(f"+exp={exp}", *(f"data.source.{split}=6" for split in ("train", "val", "test")))
    data = build(config["data"])
    shown = examples_of(data)
    assert len(shown.images) == len(shown.right) == len(shown.asked) == 6
    assert shown.pictures.open(shown.images[0]).size[0] > 16
    if exp == "dino_cls":
        [batch] = data.test_dataloader()
        assert [shown.words[label] for label in batch.labels] == shown.right
    elif exp == "xvlm_vqa":
        assert all(len(question.split()) > 2 for question in shown.asked)
        assert set(shown.right) <= {answer for q in data.asked("test") for answer in q.answers}
    else:
        assert all(shown.words[5 * i] == right for i, right in enumerate(shown.right))


def test_other_data_have_no_gallery_and_say_so():
    with pytest.raises(ValueError, match="none is made of dict"):
        examples_of({})


def test_retrieval_says_the_text_that_was_put_first(tmp_path):
    shown = Examples(Blue(), ["a", "b"], ["one", "three"], ["", ""], ["one", "two", "three"])
    arrays = {"txt_rank": np.array([0, 4]), "txt_first": np.array([1, 0]), "text_image": np.array([0, 0, 1])}
    answers = shown.answers(arrays, tmp_path)
    assert (answers.said, answers.value.tolist(), answers.least) == (["two", "one"], [0, -4], 0)
    with pytest.raises(ValueError, match="saw 3 texts, the data set has 1"):
        replace(shown, words=["one"]).answers(arrays, tmp_path)
    with pytest.raises(ValueError, match="saw 2 examples, the data set has 1"):
        replace(shown, images=["a"]).answers(arrays, tmp_path)


def test_vqa_says_the_answer_and_half_of_the_people_make_it_right(tmp_path):
    shown = Examples(Blue(), ["a", "b", "c"], ["red", "two", "yes"], ["q", "r", "s"])
    rows = [{"question_id": i, "answer": a} for i, a in enumerate(("red", "three", "no"))]
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    answers = shown.answers({"accuracy": np.array([100.0, 60.0, 30.0])}, tmp_path)
    assert answers.said == ["red", "three", "no"]
    assert (answers.value >= answers.least).tolist() == [True, True, False]
    (tmp_path / "answers.json").write_text("[{")
    with pytest.raises(ValueError, match=r"answers\.json cannot be read"):
        shown.answers({"accuracy": np.zeros(3)}, tmp_path)


@pytest.mark.parametrize("stored, least", [({"truth": [100, 0], "cider": [1, 2]}, 50), ({"cider_regex": [8, 3]}, None)])
def test_captions_are_true_or_better(tmp_path, stored, least):
    (tmp_path / "captions.json").write_text(json.dumps([{"image_id": 1, "caption": c} for c in ("a", "b")]))
    shown = Examples(Blue(), ["x", "y"], ["one", "two"], ["", ""])
    answers = shown.answers({name: np.array(values) for name, values in stored.items()}, tmp_path)
    assert (answers.said, answers.least) == (["a", "b"], least)
    assert answers.value.tolist() == next(iter(stored.values()))


def test_classification_says_the_class(tmp_path):
    shown = Examples(Blue(), ["x", "y"], ["cat", "dog"], ["", ""], ["cat", "dog", "hen"])
    arrays = {"predicted": np.array([0, 2]), "accuracy": np.array([100.0, 0.0])}
    assert shown.answers(arrays, tmp_path).said == ["cat", "hen"]


def test_a_run_that_kept_nothing_has_no_answers(tmp_path):
    assert Examples(Blue(), ["x"], ["one"], [""]).answers({"accuracy": np.ones(1)}, tmp_path) is None


def fill(root):
    """Dense, OMP and LAMP on six questions of the embedded world, at two sparsities; OMP has half of them wrong."""
    config = {"data": composed("+exp=xvlm_vqa", *(f"data.source.{s}=6" for s in ("train", "val", "test")))["data"]}
    store, found = Store(root / "runs"), build(config["data"]).fingerprint()
    for run, pruner, sparsity, right in (("d", "dense", 0, 6), ("o", "omp", 0.5, 3), ("l", "lamp", 0.5, 5)):
        given = origin(0, pruner) | {"data": found}
        given["config"] |= config
        store.append(run, [row(run=run, pruner=pruner, sparsity=sparsity, metric="accuracy", value=right,
                               provenance=given)])  # fmt: skip
        examples.write(root / "runs" / run, {"accuracy": torch.tensor([100.0] * right + [0.0] * (6 - right))})
        rows = [{"question_id": i, "answer": f"{pruner} {i}"} for i in range(6)]
        (root / "runs" / run / "answers.json").write_text(json.dumps(rows))
    [study] = material.studies(store)
    return study


def test_dense_stands_against_the_best_pruner_and_the_baseline_both_ways(tmp_path):
    study = fill(tmp_path)
    found = command.galleries(study, "omp", 2, [Path.cwd()])
    assert [(g.first, g.second, len(g.exhibits), g.graded) for g in found] == [
        ("dense", "lamp at 50 %", 1, True), ("lamp at 50 %", "dense", 0, True),
        ("dense", "omp at 50 %", 2, True), ("omp at 50 %", "dense", 0, True),
    ]  # fmt: skip
    assert (found[2].exhibits[0].first, found[2].exhibits[0].second) == ("dense 3", "omp 3")
    assert found[2].exhibits[0].asked == examples_of(build(study.origin["d"]["config"]["data"])).asked[3]
    (tmp_path / "runs" / "d" / "answers.json").unlink()
    assert command.galleries(study, "omp", 2, [Path.cwd()]) == []


def test_data_that_have_changed_are_not_shown(tmp_path):
    study = fill(tmp_path)
    study.origin["d"]["data"] = "another"
    with pytest.raises(ValueError, match="the data have changed"):
        command.galleries(study, "omp", 2, [Path.cwd()])
