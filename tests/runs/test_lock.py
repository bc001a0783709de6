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
from vlp_bench.runs.lock import PROGRESS, InUse, exclusive, join, owner

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
    monkeypatch.setattr(lock, "_held", held)
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
        os.close(lock._held.popitem()[1])
        other.send_signal(signal.SIGKILL)
        other.wait()
    join(tmp_path, [masks])
    assert names(masks) == set()
    (masks / ".own.safetensors.abcdefgh").touch()
    join(tmp_path, [masks])  # a second time it is one of the writers already
    assert names(masks) == {".own.safetensors.abcdefgh"}


HOLDER = "import sys, pathlib, os, time; from vlp_bench.runs.lock import exclusive\nwith exclusive(pathlib.Path(sys.argv[1])):\n  child = os.fork()\n  print(child, flush=True) if child else None\n  time.sleep(60)"  # noqa: E501


def test_a_killed_process_lets_go_of_its_folder_although_its_children_live(tmp_path):
    """What prepares batches for a run is a fork of it; a lock that forks inherit would outlive the run."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        orphan = int(holder.stdout.readline())
        assert owner(tmp_path) == str(holder.pid)
        with pytest.raises(InUse, match=f"process {holder.pid}"), exclusive(tmp_path):
            pass
        holder.kill()
        holder.wait()
        try:
            os.kill(orphan, 0)
            assert owner(tmp_path) is None
            with exclusive(tmp_path):
                assert owner(tmp_path) == str(os.getpid())
        finally:
            os.kill(orphan, signal.SIGKILL)


LOOKER = "import sys, pathlib; from vlp_bench.runs.lock import owner\nprint(1, flush=True)\nwhile True: owner(pathlib.Path(sys.argv[1]))"  # noqa: E501


def test_looking_never_stops_a_start(tmp_path):
    with exclusive(tmp_path):
        pass
    with subprocess.Popen([sys.executable, "-c", LOOKER, str(tmp_path)], stdout=subprocess.PIPE) as looker:
        assert looker.stdout.read(2) == b"1\n"
        for _ in range(2000):
            with exclusive(tmp_path):
                pass
        looker.kill()


def test_a_folder_is_held_once_and_looking_from_its_own_process_does_not_let_go(tmp_path):
    with exclusive(tmp_path):
        assert owner(tmp_path) == str(os.getpid())
        with pytest.raises(InUse), exclusive(tmp_path):
            pass
        again = [
            sys.executable,
            "-c",
            "import sys, pathlib; from vlp_bench.runs.lock import owner; print(owner(pathlib.Path(sys.argv[1])))",
        ]
        seen = subprocess.run([*again, str(tmp_path)], capture_output=True, text=True, check=True).stdout
        assert seen.strip() == str(os.getpid())
    assert owner(tmp_path) is None


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
