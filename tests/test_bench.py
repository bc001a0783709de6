"""`make bench`: rows as they are stored, and how what is measured stands to them."""

import json

import pytest

from benchmarks import bench

ROW = {
    "row": "omp3",
    "table": "whole call",
    "work": "OMP, 3 sparsities",
    "baseline": "one numpy.partition for all",
    "ratio": 3.0,
    "goal": 1.3,
    "seconds": {"ours": 0.5, "one numpy.partition for all": 1.5},
    "peak_gib": {"ours": 0.25, "one numpy.partition for all": 0.6},
    "model": "46 M weights",
    "threads": 1,
    "machine": "a processor",
}
DEMO = ROW | {
    "row": "demo",
    "work": "the demo",
    "baseline": "",
    "ratio": None,
    "seconds": {"ours": 30.0},
    "peak_gib": {},
}


@pytest.mark.parametrize(
    "row, before, word",
    [
        (ROW, None, "new"),
        (ROW | {"ratio": 3.29}, ROW, "as stored"),
        (ROW | {"ratio": 3.31}, ROW, "faster"),
        (ROW | {"ratio": 2.74}, ROW, "as stored"),
        (ROW | {"ratio": 2.7}, ROW, "slower"),
        (ROW | {"seconds": {"ours": 5.0}}, ROW, "as stored"),  # both sides on a slower day
        (DEMO | {"seconds": {"ours": 26.0}}, DEMO, "faster"),
        (DEMO | {"seconds": {"ours": 34.0}}, DEMO, "slower"),
    ],
)
def test_a_row_beside_the_stored_one(row, before, word):
    assert bench.verdict(row, before) == word


BLOCK = ROW | {"row": "block_wanda", "goal": 1.5, "memory_ratio": 1.4}
PASSES = ROW | {"row": "passes", "goal": 2.2, "at_most": True, "memory_ratio": None}


@pytest.mark.parametrize(
    "row, said",
    [
        (ROW | {"ratio": 1.3}, ">= 1.3 met"),
        (ROW | {"ratio": 1.29}, ">= 1.3 missed"),
        (DEMO | {"goal": 30}, "<= 30 s met"),
        (DEMO | {"goal": 29}, "<= 29 s missed"),
        (PASSES | {"ratio": 2.2}, "<= 2.2 met"),
        (PASSES | {"ratio": 2.3}, "<= 2.2 missed"),
        (BLOCK, ">= 1.5 met"),
        (BLOCK | {"memory_ratio": 1.6}, ">= 1.5 missed"),
    ],
)
def test_whether_a_goal_is_met(row, said):
    assert bench.goal(row) == said


def test_fewer_passes_are_faster():
    assert bench.verdict(PASSES | {"ratio": 2.0}, PASSES | {"ratio": 2.4}) == "faster"


def test_rows_are_compared_with_the_last_of_their_kind():
    older, newer = ROW | {"ratio": 9.0}, ROW | {"ratio": 2.0}
    others = [ROW | {"ratio": 9.0} | other for other in ({"machine": "another"}, {"threads": 2}, {"model": "184 M"})]
    title, heads, line = bench.table([ROW], [older, newer, *others]).splitlines()
    assert title == "Whole calls"
    assert heads.split() == ["row", "seconds", "GiB", "ratio", "goal", "stored", "against"]
    assert line.split("  ")[1:2] == ["OMP, 3 sparsities, 46 M weights"]
    assert "0.50" in line
    assert "0.25" in line
    assert "3.00 x" in line
    assert "2.00 x" in line
    assert "faster" in line
    assert ">= 1.3 met" in line
    assert line.endswith("one numpy.partition for all: 1.50 s")


def test_parts_of_a_call_are_a_table_of_their_own():
    said = bench.table([ROW | {"table": "kernel", "work": "3 thresholds"}, DEMO], [DEMO | {"seconds": {"ours": 40.0}}])
    calls, parts = said.split("\n\n")
    assert calls.splitlines()[0] == "Whole calls"
    assert "40.00 s" in calls
    assert "faster" in calls
    assert parts.splitlines()[0] == "Parts of a call"
    assert "3 thresholds" in parts
    assert "new" in parts


def test_stored_rows_are_read_in_their_order(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert bench.read(file) == []
    file.write_text("".join(f"{json.dumps(row)}\n" for row in (ROW, DEMO)))
    assert bench.read(file) == [ROW, DEMO]


@pytest.mark.parametrize("line", ["no json", "{}", "[1]"])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(ROW)}\n{line}\n")
    with pytest.raises(ValueError, match="line 2 is no row of"):
        bench.read(file)


def test_what_the_repository_stores_can_be_read():
    assert all(
        {"ratio", "goal", "seconds", "commit", "load", "torch"} <= row.keys() for row in bench.read(bench.STORED)
    )


@pytest.mark.slow
def test_a_measured_row_can_be_compared(tmp_path, monkeypatch):
    real = bench.subprocess.run
    small = {"46": "0.01", "small": "tiny", "3": "1"}
    monkeypatch.setattr(
        bench.subprocess, "run", lambda words, **how: real([small.get(word, word) for word in words], **how)
    )
    row = bench.measured("omp3", tmp_path / "rows.jsonl")
    assert row["seconds"].keys() == row["peak_gib"].keys() == {"ours", row["baseline"]}
    assert row["masks_differ"] == 0
    assert row["model"] == "0.01 M weights"
    assert bench.verdict(row, row) == "as stored"
    assert "OMP, 3 sparsities" in bench.table([row], [])


def test_what_no_call_can_do_without_is_told():
    shown = bench.table([ROW | {"floor": 3.25}, ROW | {"row": "omp", "floor": None}], [])
    assert "1.50 s, forward passes alone 3.25 x" in shown
    assert shown.count("forward passes") == 1


def test_the_page_has_the_stored_rows_and_the_last_of_each_kind():
    text = bench.PAGE.read_text(encoding="utf-8")
    assert bench.page(bench.read(bench.STORED), text) == text
    quick, full = ROW, ROW | {"model": "184 M weights"}
    rows = [quick, full, full | {"ratio": 2.5}, DEMO]
    told = bench.page(rows, f"before\n{bench.BEGIN}old\n{bench.END}after\n").splitlines()
    assert told[0] == "before"
    assert told[-1] == "after"
    assert [line for line in told if "OMP" in line] == [
        "| OMP, 3 sparsities, 184 M weights | one numpy.partition for all | 0.50 | 1.50 "
        "| 2.50 | >= 1.3 met | 0.25 | 0.60 |"
    ]
