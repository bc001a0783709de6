"""The status of a sweep: every state is told, and the exit code sums them up."""

import pytest

from tests.results.test_row import ORIGIN, row
from vlp_bench.commands.status import UNFINISHED, runs_of, show
from vlp_bench.results.store import Store
from vlp_bench.runs.lock import exclusive, owner
from vlp_bench.runs.terminal.console import console
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.sweeps.expand import cells_of
from vlp_bench.sweeps.states import FAILED_FILE, State, reason_of


@pytest.fixture
def words(tiny):
    return [*tiny, "pruner=omp", "sparsity=0.5", "seed=0,1,2,3,4"]


def finish(cell, **changes):
    run = cell.specification.run
    Store(cell.specification.out / "runs").append(cell.name, [row(run=run, provenance=ORIGIN, **changes)])


def test_every_state_is_shown_with_its_exit_code(words, capsys, monkeypatch):
    monkeypatch.setattr(console, "_width", 160)  # the reasons on one line
    done, running, interrupted, failed, missing = cells_of(words)
    finish(done)
    for cell in (running, interrupted, failed):
        cell.folder.mkdir(parents=True)
    (interrupted.folder / "last.ckpt").touch()
    with exclusive(running.folder):
        assert owner(running.folder) is not None
        assert show(runs_of(words)) == UNFINISHED
        states = [cell.state() for cell in (done, running, interrupted, failed, missing)]
        assert states == [State.DONE, State.RUNNING, State.INTERRUPTED, State.MISSING, State.MISSING]
    assert owner(running.folder) is None
    (failed.folder / FAILED_FILE).write_text("exit code 1: no space left")
    assert show(runs_of(words)) == 1
    seen = capsys.readouterr().out
    assert "5 runs: 1 done, 1 running, 1 interrupted, 2 missing" in " ".join(seen.split())
    assert "1 failed" in seen
    assert "no space left" in " ".join(seen.split())


def test_names_of_runs_are_whole_on_a_narrow_terminal(words, capsys, monkeypatch):
    monkeypatch.setattr(console, "_width", 40)
    assert show(runs_of(words)) == UNFINISHED
    seen = capsys.readouterr().out
    assert all(cell.name in seen for cell in cells_of(words))


def test_all_done_is_zero_and_unreadable_lines_are_told(words, capsys):
    cells = cells_of(words)
    for cell in cells:
        finish(cell)
    file = cells[0].folder / "rows.jsonl"
    file.write_text(file.read_text() + '{"torn')
    assert show(runs_of(words)) == 0
    assert "torn" in capsys.readouterr().out


def test_a_diverged_run_has_failed_with_its_message(words):
    cell = cells_of(words)[0]
    finish(cell, value=float("nan"), status="ERR", message="the loss is not a number")
    assert cell.state() == State.FAILED
    assert reason_of(cell.folder, cell.specification.run) == "the loss is not a number"


def test_without_an_experiment_all_runs_on_disk_are_shown(words, tmp_path):
    finish(cells_of(words)[0])
    [(folder, run)] = runs_of([f"paths.out={tmp_path}/out"])
    assert folder.name.endswith(run)
    with pytest.raises(UserError, match="say which experiment"):
        runs_of(["pruner=omp"])
    with pytest.raises(UserError, match=r"did you mean paths.out=there\?"):
        runs_of(["out=there"])
    with pytest.raises(UserError, match="there are no runs"):
        runs_of([f"paths.out={tmp_path}/nowhere"])
