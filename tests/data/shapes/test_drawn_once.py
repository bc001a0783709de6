"""Records kept in the user's cache folder: as drawn, held to their hash, and drawn again where they are not."""

import logging
from pathlib import Path

import pytest

from vlp_bench.data.datasets import labelled, pairs, questions, sources
from vlp_bench.data.shapes.drawn_once import cache_folder, drawn_once

DRAWS = {
    "gallery": (sources._drawn, ("gallery", 0, "itr_val", 6, 0.2)),
    "images": (sources._drawn, ("images", 0, "itr_train", 6, 0.2)),
    "regions": (sources._drawn, ("regions", 0, "calibration_region", 6, 0.2)),
    "questions": (questions._drawn, (0, "vqa_val", 6)),
    "pairs": (pairs._drawn, (0, "vqa_val", 6)),
    "labelled": (labelled._drawn, (0, "val", 6)),
}
SPLIT = (0, "val", 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VLP_BENCH_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


class Process:
    """What one process draws: `drawn` as it sees it, and how often it had to."""

    def __init__(self, kind="labelled"):
        self.times, self.draw = 0, DRAWS[kind][0].__wrapped__.__wrapped__
        self.drawn = drawn_once(self._count)

    def _count(self, *where):
        self.times += 1
        return self.draw(*where)


@pytest.mark.parametrize("kind", DRAWS)
def test_what_is_read_back_is_what_was_drawn(kind, folder):
    where = DRAWS[kind][1]
    first, second = Process(kind), Process(kind)
    drawn = first.drawn(*where)
    read = second.drawn(*where)
    assert read == drawn == first.draw(*where)
    assert repr(read) == repr(drawn)  # types too: a data set's fingerprint is of what repr says
    assert (first.times, second.times) == (1, 0)
    assert second.drawn(*where) is read


def test_other_arguments_are_drawn(folder):
    process = Process()
    for where in (SPLIT, (0, "val", 3), (1, "val", 2), (0, "test", 2)):
        process.drawn(*where)
    assert process.times == len(list(folder.rglob("*.json"))) == 4


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b.replace(b"shapes-", b"shapes_", 1), lambda b: b"\xff"])
def test_a_broken_file_is_drawn_again(harm, folder, caplog):
    drawn = Process().drawn(*SPLIT)
    [file] = folder.rglob("*.json")
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    again = Process()
    with caplog.at_level(logging.WARNING):
        assert again.drawn(*SPLIT) == drawn
    assert again.times == 1
    assert f"{file} is broken" in caplog.text or f"{file} cannot be read" in caplog.text
    assert file.read_bytes() == whole
    assert list(file.parent.iterdir()) == [file]  # nothing unfinished is left


def test_other_code_draws_again(folder, monkeypatch):
    Process().drawn(*SPLIT)
    monkeypatch.setattr("vlp_bench.data.shapes.drawn_once._sources", lambda file: "another version")
    again = Process()
    again.drawn(*SPLIT)
    assert again.times == 1


def test_an_empty_setting_keeps_nothing(folder, monkeypatch):
    monkeypatch.setenv("VLP_BENCH_CACHE", "")
    first, second = Process(), Process()
    assert first.drawn(*SPLIT) == second.drawn(*SPLIT)
    assert (first.times, second.times) == (1, 1)
    assert not folder.exists()


def test_a_folder_that_refuses_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("VLP_BENCH_CACHE", str(tmp_path / "file"))
    assert len(Process().drawn(*SPLIT)) == 2


def test_where_it_lies(monkeypatch):
    monkeypatch.delenv("VLP_BENCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/somebody/.cache/vlp_bench")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/fast")
    assert cache_folder() == Path("/var/fast/vlp_bench")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert cache_folder() == Path("/home/somebody/.cache/vlp_bench")
    monkeypatch.setenv("VLP_BENCH_CACHE", "~/kept")
    assert cache_folder() == Path("/home/somebody/kept")
    monkeypatch.setenv("VLP_BENCH_CACHE", "~nobody-of-that-name/kept")  # who has no home, so that nothing is kept
    assert cache_folder() is None
