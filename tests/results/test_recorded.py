"""Shipped rows beside a first run: which they are, what they say, and that a user's own take their place."""

import pandas as pd
import pytest

from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.results import recorded

WEIGHTS = "pkg://vlp_bench/assets/{}_shapes.safetensors"


def frame(*rows):
    columns = ["pruner", "sparsity", "seed", "metric", "value"]
    return pd.DataFrame([dict(zip(columns, row, strict=True)) | {"status": "ok", "split": "test"} for row in rows])


@pytest.mark.parametrize("model", ["xvlm", "blip"])
def test_dense_and_omp_are_shipped_for_the_shipped_weights(model):
    rows = recorded.recorded(f"{model}_itr", content_hash(WEIGHTS.format(model)))
    for pruner, levels in {"dense": {0.0}, "omp": {0.63, 0.75, 0.9}}.items():
        own = rows[(rows["pruner"] == pruner) & (rows["metric"] == "txt_r1")]
        assert set(own["sparsity"]) == levels
        assert set(own["seed"]) == {0, 1, 2}
    assert set(rows["run"].str.len()) == {10}  # each says which run and which code it came from
    assert rows["commit"].str.len().eq(40).all()


def test_other_weights_have_no_recorded_rows():
    assert recorded.recorded("xvlm_itr", "0" * 16).empty


def test_without_the_file_there_is_nothing_to_compare_with(monkeypatch):
    monkeypatch.setattr(recorded, "PLACES", {"mini": ()})
    assert recorded.recorded("xvlm_itr", "0" * 16).empty


def test_where_more_is_left_is_named_where_there_are_rows():
    said = recorded.readable("xvlm_itr", "lamp", "txt_r1")
    assert said.startswith("benchmark=world has longer recipes")
    assert " at 90 %" in said
    assert "recorded there" not in recorded.readable("xvlm_itr", "obd", "txt_r1")
    assert recorded.readable("dino_cls", "omp", "accuracy") == ""


@pytest.mark.parametrize("own, says", [(0.8, "collapsed"), (50.0, "62 %"), (79.0, "99 % .* little is lost")])
def test_a_number_is_judged_by_its_share_of_the_dense_one(own, says):
    assert pd.Series([recorded.verdict(own, 80.0)]).str.contains(says).all()


def test_the_commonest_answer_needs_no_model():
    """46 of 92 are nothing where 45 can be had blindly, and 50 of 92 are a tenth of what dense is ahead."""
    assert recorded.collapsed(46.0, 92.0, 45.0)
    assert not recorded.collapsed(50.0, 92.0, 45.0)
    assert "has collapsed (always the commonest answer: 45.00)" in recorded.verdict(46.0, 92.0, 45.0)
    kept = "54 % of the dense model's number is kept (always the commonest answer: 45.00)"
    assert recorded.verdict(50.0, 92.0, 45.0) == kept


def test_levels_are_means_over_seeds():
    rows = frame(("omp", 0.63, 0, "r", 80.0), ("omp", 0.63, 1, "r", 90.0), ("omp", 0.9, 0, "r", 1.0))
    assert recorded.levels(rows, "omp", "r") == "85.00 at 63 %, 1.00 at 90 %"
    assert recorded.levels(rows, "lamp", "r") == ""


def test_own_rows_take_the_place_of_recorded_ones():
    shipped = frame(("omp", 0.63, 0, "r", 80.0), ("omp", 0.9, 0, "r", 1.0))
    both = recorded.replaced(shipped, frame(("omp", 0.9, 0, "r", 2.0)))
    assert sorted(both["value"]) == [2.0, 80.0]


def test_where_rows_come_from():
    rows = pd.DataFrame({"time": ["2026-11-21T1", "2026-11-22T1"], "commit": ["a" * 40, "b" * 40]})
    assert recorded.told(rows).startswith("2026-11-21 to 2026-11-22 with 2 versions of this code (aaaaaaaa, bbbbbbbb")
