"""Rows: what is stored can be believed, and comes back as it was."""

import json
import math

import pytest

from vlp_bench.results.row import PROVENANCE, Row

ORIGIN = {
    "config": {"seed": 0},
    "versions": {"python": "3.11"},
    "commit": None,
    "dirty": None,
    "data": "d",
    "weights": "w",
    "mask": None,
    "hardware": {"cpus": 2},
    "seconds": 1.5,
    "time": "2026-01-01T00:00:00+00:00",
}


def row(**changes):
    values = {
        "metric": "txt_r1",
        "value": 50.0,
        "split": "test",
        "exp": "xvlm_itr",
        "model": "xvlm_mini",
        "task": "retrieval_mini",
        "benchmark": "mini",
        "pruner": "omp",
        "sparsity": 0.9,
        "seed": 0,
        "run": "abc",
        "setting": "def",
        "rows": 1,
        "provenance": ORIGIN,
    }
    return Row(**(values | changes))


def test_a_row_is_one_line_and_comes_back_equal():
    line = row().to_json()
    assert "\n" not in line
    assert Row.from_json(line) == row()


def test_nan_is_stored_as_null_and_only_with_an_error():
    failed = row(value=math.nan, status="ERR", message="lost")
    assert json.loads(failed.to_json())["value"] is None
    back = Row.from_json(failed.to_json())
    assert math.isnan(back.value)
    assert (back.status, back.message) == ("ERR", "lost")
    with pytest.raises(ValueError, match="status ERR"):
        row(value=math.nan)
    with pytest.raises(ValueError, match="status ERR"):
        row(value=math.inf)


@pytest.mark.parametrize("key", PROVENANCE)
def test_a_row_without_provenance_is_refused(key):
    with pytest.raises(ValueError, match=f"lacks .*{key}"):
        row(provenance={name: value for name, value in ORIGIN.items() if name != key})


@pytest.mark.parametrize("key", ["config", "versions", "hardware", "time"])
def test_an_empty_provenance_is_refused(key):
    with pytest.raises(ValueError, match=key):
        row(provenance=ORIGIN | {key: None})


def test_a_commit_may_be_unknown():
    assert row(provenance=ORIGIN | {"commit": None}).provenance["commit"] is None


def test_a_status_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="ok, ERR"):
        row(status="fine")


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"metric": "r1"}', "null"])
def test_what_is_not_a_row_is_refused(line):
    with pytest.raises(ValueError):
        Row.from_json(line)
