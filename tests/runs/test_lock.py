"""What killed writers leave is removed by the next that comes, and nothing else is."""

import os
import signal
import subprocess
import sys

import pytest

from benchmarks.endurance.kill_anywhere import Moment, start
from vlp_bench.results import examples
from vlp_bench.runs import lock
from vlp_bench.runs.checkpointing import write_whole
from vlp_bench.runs.lock import PROGRESS, exclusive, join

KEPT = (".lock", ".failed", ".gitignore", "run.log", "best.ckpt", "rows.jsonl", "a.b.abcdefgh", "..failed.12.tmp")
LEFT = (".best.ckpt.4711.tmp", ".m.safetensors.k3_x9abc", ".captions.json.tmp", PROGRESS)


@pytest.fixture
def folder(tmp_path):
    for name in (*KEPT, *LEFT):
        (tmp_path / name).touch()
    (tmp_path / ".folder.abcdefgh").mkdir()
    return tmp_path


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_whoever_is_alone_in_a_folder_clears_what_was_left(folder):
    with exclusive(folder):
        assert names(folder) == {*KEPT, ".folder.abcdefgh"}


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """A test is a process of its own."""
    held = {}
    monkeypatch.setattr(lock, "_joined", held)
    yield
    for descriptor in held.values():
        os.close(descriptor)


WRITER = "import sys, pathlib; from vlp_bench.runs.lock import exclusive, join; join(pathlib.Path(sys.argv[1]), []); print(1, flush=True); sys.stdin.read()"  # noqa: E501


def test_nobody_clears_what_a_live_writer_writes_and_the_first_after_a_kill_does(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.read(2) == b"1\n"
        (masks / ".m.safetensors.abcdefgh").touch()
        join(tmp_path, [masks])
        assert names(masks) == {".m.safetensors.abcdefgh"}
        os.close(lock._joined.pop(tmp_path))
        other.send_signal(signal.SIGKILL)
        other.wait()
    join(tmp_path, [masks])
    assert names(masks) == set()
    (masks / ".own.safetensors.abcdefgh").touch()
    join(tmp_path, [masks])  # a second time it is one of the writers already
    assert names(masks) == {".own.safetensors.abcdefgh"}


@pytest.mark.parametrize("write", [
    lambda folder: write_whole(folder / "best.ckpt", b"x"),
    lambda folder: examples.write(folder, {"truth": [1.0]}),
])  # fmt: skip
def test_what_writers_leave_when_killed_has_a_name_that_is_cleared(write, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: None)
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    write(tmp_path)
    [left] = names(tmp_path)
    assert lock.LEFT.fullmatch(left)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_its_writes_leaves_nothing_in_the_end(tiny, tmp_path):
    words = [*(word for word in tiny if not word.startswith("paths.out")), "pruner=multiflow", "sparsity=0.5"]
    for moment in (Moment("statistics", 1), Moment("masks", 1), Moment("best.ckpt", 1)):
        assert start(words, tmp_path, moment) == -signal.SIGKILL
    hidden = [path.name for path in tmp_path.rglob(".*") if lock.LEFT.fullmatch(path.name)]
    assert any(name.startswith(".best.ckpt.") for name in hidden)
    assert start(words, tmp_path) == 0
    assert [path for path in tmp_path.rglob(".*") if lock.LEFT.fullmatch(path.name)] == []
