"""Per-example files: what is written comes back, what is broken is said to be."""

import warnings
import zipfile

import numpy as np
import pytest
import torch

from vlp_bench.results import examples


def test_arrays_come_back_and_nothing_else_is_left(tmp_path):
    examples.write(tmp_path, {"txt_rank": torch.tensor([0, 3]), "answer": np.array(["red", "two"])})
    found = examples.read(tmp_path)
    assert found["txt_rank"].tolist() == [0, 3]
    assert found["answer"].tolist() == ["red", "two"]
    assert [file.name for file in tmp_path.iterdir()] == [examples.FILE]


def test_a_task_without_examples_writes_no_file(tmp_path):
    assert examples.write(tmp_path, {}) is None
    assert examples.read(tmp_path) == {}


def test_a_truncated_file_is_named(tmp_path):
    file = examples.write(tmp_path, {"accuracy": np.ones(100)})
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"examples\.npz cannot be read"):
        examples.read(tmp_path)


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / examples.FILE, accuracy=np.array([object()]))
    with pytest.raises(ValueError, match="cannot be read"):
        examples.read(tmp_path)


def test_values_of_a_metric():
    arrays = {"txt_rank": np.array([0, 4, 5]), "accuracy": np.array([1, 0])}
    assert examples.values(arrays, "txt_r1").tolist() == [100, 0, 0]
    assert examples.values(arrays, "txt_r5").tolist() == [100, 100, 0]
    assert examples.values(arrays, "accuracy").tolist() == [1.0, 0.0]
    assert examples.values(arrays, "img_r1") is None


def test_texts_of_one_image_belong_together():
    arrays = {"img_rank": np.zeros(4), "txt_rank": np.zeros(2), "text_image": np.array([0, 0, 1, 1])}
    assert examples.clusters(arrays, "img_r1").tolist() == [0, 0, 1, 1]
    assert examples.clusters(arrays, "txt_r1") is None


def test_an_array_that_is_gone_or_stands_twice_is_refused(tmp_path):
    file = examples.write(tmp_path, {"txt_rank": torch.arange(3), "text_image": torch.arange(3)})
    assert sorted(examples.read(tmp_path)) == ["text_image", "txt_rank"]
    with zipfile.ZipFile(file) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    for names, message in (
        ([*parts][:2], "it should hold text_image, txt_rank"),
        ([*parts, [*parts][1]], "it stores an array twice"),
        ([], "it should hold arrays"),
    ):
        with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as changed:
            warnings.simplefilter("ignore")  # of a part that is stored twice
            for name in names:
                changed.writestr(name, parts[name])
        with pytest.raises(ValueError, match=rf"examples\.npz cannot be read \({message}"):
            examples.read(tmp_path)
