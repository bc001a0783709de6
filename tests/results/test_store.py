"""The store: appended whole or not at all, torn lines reported, the newest result counts."""

import errno
import json
import multiprocessing
import os

import pytest

from tests.results.test_row import ORIGIN, row
from vlp_bench.results.store import Store
from vlp_bench.runs.terminal.errors import explain


def at(time):
    return ORIGIN | {"time": time}


def pair(run="abc", time="1", **changes):
    return [row(run=run, metric=m, rows=2, provenance=at(time), **changes) for m in ("txt_r1", "img_r1")]


def test_what_is_appended_is_read(tmp_path):
    store = Store(tmp_path)
    path = store.append("one", pair())
    assert path.read_text().count("\n") == 2
    assert list(store.rows()) == pair()
    assert not store.problems


def test_a_run_is_done_when_all_rows_are_there_and_none_is_an_error(tmp_path):
    store = Store(tmp_path)
    store.append("one", pair()[:1])
    assert not store.done("abc")
    store.append("one", pair(time="2"))
    assert store.done("abc")
    assert not store.done("other")
    store.append("one", [row(value=float("nan"), status="ERR", provenance=at("3"))])
    assert not store.done("abc")


def test_a_torn_last_line_is_ignored_and_reported(tmp_path):
    store = Store(tmp_path)
    path = store.append("one", pair())
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert list(store.rows()) == pair()[:1]
    assert "torn" in store.problems[0]
    assert str(path) in store.problems[0]
    store.append("one", pair(time="2"))
    assert Store(tmp_path).done("abc")
    assert [r.provenance["time"] for r in Store(tmp_path).rows()] == ["1", "2", "2"]


def test_a_damaged_line_costs_only_itself(tmp_path):
    store = Store(tmp_path)
    path = store.append("one", pair())
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[:30]}\n{second}\n")
    assert len(list(store.rows())) == 2
    assert "line 2" in store.problems[0]


def test_the_newest_result_counts(tmp_path):
    store = Store(tmp_path)
    store.append("one", pair(time="1", value=10.0))
    store.append("one", pair(time="2", value=20.0))
    frame = store.query(metric="txt_r1")
    assert list(frame["value"]) == [20.0]


def test_a_query_filters_and_names_its_columns(tmp_path):
    store = Store(tmp_path)
    store.append("one", pair(run="a", pruner="omp"))
    store.append("two", pair(run="b", pruner="lamp"))
    assert set(store.query()["pruner"]) == {"omp", "lamp"}
    assert set(store.query(pruner="omp")["run"]) == {"a"}
    assert {"metric", "value", "commit", "seconds", "mask"} <= set(store.query().columns)


def test_an_empty_store_answers_with_an_empty_frame(tmp_path):
    assert Store(tmp_path / "nowhere").query(pruner="omp").empty


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        Store(tmp_path).append("one", [])


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    store = Store(tmp_path)
    path = store.append("one", pair())
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:50]))
    with pytest.raises(OSError, match="No space left") as caught:
        store.append("one", pair(time="2"))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "code, says", ((errno.EROFS, "read-only"), (errno.EACCES, "permission"), (errno.ENOSPC, "space"))
)
def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch, code, says):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", refused)
    with pytest.raises(OSError) as caught:
        Store(tmp_path).append("one", pair())
    line = explain(caught.value)
    assert str(tmp_path) in line
    assert says in line
    assert "paths.out=DIR" in line


def _append(root, number):
    for time in range(20):
        Store(root).append("shared", pair(run=f"run{number}", time=f"{time:02d}"))


def test_concurrent_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(tmp_path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    store = Store(tmp_path)
    assert len(list(store.rows())) == 3 * 20 * 2
    assert not store.problems


def test_rows_that_stand_twice_count_once_and_are_done(tmp_path):
    path = Store(tmp_path).append("one", [row(metric=metric, rows=2) for metric in ("a", "b")])
    path.write_text(path.read_text() * 2)
    store = Store(tmp_path)
    assert [found.metric for found in store.last("abc")] == ["a", "b"]
    assert store.done("abc")
    assert list(store.query()["metric"]) == ["a", "b"]
    assert store.problems == []


def test_a_run_whose_last_rows_are_gone_is_not_done_and_told(tmp_path):
    path = Store(tmp_path).append("one", [row(metric=metric, rows=3) for metric in ("a", "b", "c")])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    store = Store(tmp_path)
    assert list(store.query()["metric"]) == ["a", "b"]
    assert not store.done("abc")
    assert store.problems == [f"{tmp_path}: run abc has 2 of its 3 rows; compute it again"]


def test_rows_without_a_sum_are_read_if_their_types_are_right(tmp_path):
    content = json.loads(row().to_json())
    del content["sum"]
    path = Store(tmp_path).append("one", [row()])
    path.write_text(json.dumps(content) + "\n")
    assert list(Store(tmp_path).rows()) == [row()]
    for name, value in {"seed": "0", "value": True, "rows": 1.5, "provenance": [], "metric": 3}.items():
        path.write_text(json.dumps(content | {name: value}) + "\n")
        store = Store(tmp_path)
        assert list(store.rows()) == []
        assert "line 1 is ignored" in store.problems[0]
