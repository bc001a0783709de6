"""How far a run is can be read by another process while it runs, and is gone afterwards."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from vlp_bench.commands.status import runs_of, show
from vlp_bench.runs import progress as progress_module
from vlp_bench.runs.finetune import Progress
from vlp_bench.runs.lock import PROGRESS, exclusive
from vlp_bench.runs.progress import Pruning
from vlp_bench.runs.run import Helpers, run
from vlp_bench.sweeps.expand import cells_of
from vlp_bench.sweeps.states import progress_of
from vlp_bench.sweeps.sweep import Job, Sweep


def trainer(**changes):
    usual = {"current_epoch": 1, "max_epochs": 3, "global_step": 7, "estimated_stepping_batches": 12,
             "is_global_zero": True, "sanity_checking": False}  # fmt: skip
    return SimpleNamespace(**usual | changes)


def test_epoch_and_step_are_told_once_a_second(tmp_path):
    progress = Progress(tmp_path)
    progress.on_train_batch_end(trainer(), None)
    assert progress_of(tmp_path) == "epoch 2 of 3, step 7 of 12"
    progress.on_train_batch_end(trainer(global_step=8), None)
    assert progress_of(tmp_path) == "epoch 2 of 3, step 7 of 12"
    progress.told -= 1
    progress.on_train_batch_end(trainer(global_step=9), None)
    assert progress_of(tmp_path) == "epoch 2 of 3, step 9 of 12"
    progress.on_validation_start(trainer(), None)
    assert progress_of(tmp_path) == "epoch 2 of 3, validation"
    progress.on_test_start(trainer(), None)
    assert progress_of(tmp_path) == "test"
    progress.on_test_end(trainer(), None)
    assert progress_of(tmp_path) == ""


def test_one_process_of_several_tells_and_a_full_disk_stops_nothing(tmp_path):
    Progress(tmp_path).on_test_start(trainer(is_global_zero=False), None)
    assert not (tmp_path / PROGRESS).exists()
    Progress(tmp_path / "gone").on_test_start(trainer(), None)


class Watching(Progress):
    """Notes what others would read."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = []

    def on_train_batch_end(self, *_):
        self.seen.append(progress_of(self.file.parent))


def test_a_run_tells_how_far_it_is(specified):
    specification = specified("pruner=omp", "sparsity=0.5")
    watching = Watching(specification.folder)
    run(specification, Helpers(console=Console(quiet=True), watchers=[watching]))
    assert any(text.startswith("epoch 1 of 2, step ") and text.endswith(" of 6") for text in watching.seen)
    assert progress_of(specification.folder) == ""


BATCHES = ["a", "b", "c"]


def test_pruning_tells_pass_and_batch_in_the_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "EVERY", 0.0)
    seen = []
    with Pruning(Console(quiet=True), tmp_path) as watch:
        batches = watch(BATCHES)
        assert len(batches) == len(BATCHES)
        for read in (batches, batches, watch(BATCHES, 2), watch(iter(BATCHES))):
            assert list(read) == BATCHES
            seen.append(progress_of(tmp_path))
    assert seen == [
        "pruning: calibration pass 1, batch 3 of 3",
        "pruning: calibration pass 2, batch 3 of 3",
        "pruning: calibration pass 3, batch 3 of 2",
        "pruning: calibration pass 4, batch 3",
    ]
    assert progress_of(tmp_path) == ""


def test_without_a_terminal_pruning_says_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_EVERY", 0.01)
    console = Console(width=200, file=io.StringIO())
    with Pruning(console) as watch:
        for _ in watch(BATCHES):
            time.sleep(0.05)
    lines = console.file.getvalue().splitlines()
    assert len(lines) >= 3
    assert lines[-1].startswith("pruning: calibration pass 1, batch 3 of 3, ")
    assert not watch.lines.is_alive() or watch.lines.join(1) is None


def test_on_a_terminal_pruning_is_a_bar():
    console = Console(width=100, file=io.StringIO(), force_terminal=True)
    with Pruning(console) as watch:
        for _ in watch(BATCHES):
            watch.bar.refresh()
    assert "pruning: calibration pass 1, batch 2 of 3" in console.file.getvalue()


@pytest.fixture
def cell(tiny):
    [found] = cells_of([*tiny, "pruner=omp", "sparsity=0.5"])
    found.folder.mkdir(parents=True)
    return found


def shown(table):
    console = Console(width=200)
    with console.capture() as seen:
        console.print(table)
    return seen.get()


def test_the_table_of_a_sweep_and_the_status_show_it(cell, tiny, capsys):
    sweep = Sweep([cell])
    running = [Job(cell, 0, 1, None)]
    assert "preparing" in shown(sweep._table([], running))
    with exclusive(cell.folder):
        (cell.folder / PROGRESS).write_text("epoch 2 of 3, step 7 of 12")
        assert "epoch 2 of 3, step 7 of 12" in shown(sweep._table([], running))
        show(runs_of([*tiny, "pruner=omp", "sparsity=0.5"]))
        assert "epoch 2 of 3" in capsys.readouterr().out
    with exclusive(cell.folder):
        assert progress_of(cell.folder) == ""  # what a killed process said means nothing
