"""Sweeps: every cell in a process of its own, nothing computed twice, failures tried again and told."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib import import_module

import pytest

from benchmarks.endurance import kill_cells
from benchmarks.endurance.forked import forked
from benchmarks.endurance.kill_anywhere import SLOW
from benchmarks.endurance.kill_sweep import endure
from tests.results.test_row import ORIGIN, row
from vlp_bench.results.store import Store
from vlp_bench.runs.launch import _in_hydras_words
from vlp_bench.runs.lock import LEFT
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.terminal.errors import BUSY, FAILED, UserError
from vlp_bench.sweeps import slurm
from vlp_bench.sweeps.expand import cells_of, expand
from vlp_bench.sweeps.states import State
from vlp_bench.sweeps.sweep import Sweep, _slots
from vlp_bench.sweeps.sweep import sweep as sweep_of

QUICK = ("recipe.epochs=0", "sparsity=0.5")


def test_words_expand_as_hydra_expands_them():
    assert expand(["+exp=a", "seed=0,1", "pruner=omp,lamp"]) == [
        ["+exp=a", "seed=0", "pruner=omp"], ["+exp=a", "seed=0", "pruner=lamp"],
        ["+exp=a", "seed=1", "pruner=omp"], ["+exp=a", "seed=1", "pruner=lamp"],
    ]  # fmt: skip
    assert expand(["seed=range(2)"]) == [["seed=0"], ["seed=1"]]
    assert expand(["task.betas=[0.9,0.98]"]) == [["task.betas=[0.9,0.98]"]]


def test_dense_is_one_cell_at_every_sparsity(tiny):
    assert len(cells_of([*tiny, "pruner=dense,omp", "sparsity=0.5,0.75"])) == 3


def test_a_sweep_computes_what_is_missing_and_tells_what_fails(tiny, capsys):
    cells = cells_of([*tiny, *QUICK, "pruner=omp,lamp", "seed=0"])
    [other] = cells_of([*tiny, *QUICK, "pruner=omp", "task.k_test=0"])
    sweep = Sweep([*cells, other], n_parallel=2, start=forked)
    sweep.perform()
    assert [cell.state() for cell in cells] == [State.DONE, State.DONE]
    assert other.state() == State.FAILED
    assert list(sweep.failures) == [other.name]
    assert "k_test must be at least 1" in sweep.failures[other.name]
    rows = len(list(Store(cells[0].specification.out / "runs").rows()))
    again = Sweep(cells, start=forked)
    again.perform()
    assert "2 stored already, 0 to compute" in capsys.readouterr().out
    assert len(list(Store(cells[0].specification.out / "runs").rows())) == rows


class Ended:
    """A process that has ended with a code."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode


@pytest.fixture
def cell(tiny):
    [found] = cells_of([*tiny, *QUICK, "pruner=omp"])
    found.folder.mkdir(parents=True)
    (found.folder / "run.log").write_text("something\nthe last line\n\n")
    return found


@pytest.mark.parametrize("code, tries", [(-9, 2), (1, 2), (2, 1), (3, 1), (0, 2), (143, 2)])
def test_what_was_killed_is_tried_once_more_and_a_mistake_is_not(cell, code, tries):
    started = []
    sweep = Sweep([cell], start=lambda cell, env: (started.append(env), Ended(code))[1])
    sweep.perform()
    assert len(started) == tries
    reason = sweep.failures[cell.name]
    assert {-9: "killed by SIGKILL", 0: "without a result"}.get(code, f"exit code {code}: the last line") in reason
    assert cell.state() == State.FAILED


def finished(cell):
    Store(cell.folder.parent).append(cell.name, [row(run=cell.specification.run, provenance=ORIGIN)])


@pytest.mark.parametrize("stored", (True, False))
def test_a_cell_that_another_process_works_on_is_waited_for_and_computed_if_need_be(cell, monkeypatch, capsys, stored):
    """The other ends while this one looks, with a result or without."""
    looks, started = [], []

    def owner(folder):
        looks.append(folder)
        if len(looks) == 3 and stored:
            finished(cell)
        return "4711" if len(looks) < 3 else None

    monkeypatch.setattr("vlp_bench.sweeps.sweep.owner", owner)
    monkeypatch.setattr("vlp_bench.sweeps.sweep.LOOK_EVERY", 0.0)
    sweep = Sweep([cell], start=lambda cell, env: (started.append(cell), finished(cell), Ended(0))[2])
    sweep.perform()
    assert started == ([] if stored else [cell])
    assert not sweep.failures
    assert not sweep.elsewhere
    assert cell.state() == State.DONE
    assert "it is waited for" in capsys.readouterr().out


def test_a_process_that_finds_its_folder_in_use_has_not_failed(cell):
    """Two sweeps start the same cell at the same time: the later process ends at once, with a code of its own."""
    ends = iter((Ended(BUSY), Ended(0)))

    def start(cell, env):
        end = next(ends)
        if not end.returncode:
            finished(cell)
        return end

    sweep = Sweep([cell], retries=0, start=start)
    sweep.perform()
    assert not sweep.failures
    assert cell.state() == State.DONE


def test_a_sweep_with_a_cell_without_rows_does_not_end_well(cell, monkeypatch):
    monkeypatch.setattr(Sweep, "perform", lambda self: None)
    with pytest.raises(SystemExit) as stopped:
        sweep_of([cell], n_parallel=1, retries=0)
    assert stopped.value.code == FAILED
    finished(cell)
    sweep_of([cell], n_parallel=1, retries=0)


def test_settings_that_cannot_be_are_refused(cell, monkeypatch):
    for wrong in ({"n_parallel": 0}, {"retries": -1}):
        with pytest.raises(UserError, match=r"at least|or more"):
            Sweep([cell], **wrong)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="do not start it with torchrun"):
        Sweep([cell])


def test_jobs_get_gpus_of_their_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    assert _slots([Plan(2, 1, True)], None) == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    with pytest.raises(UserError, match=r"3 runs at a time of 2 GPU.* more than the 5"):
        _slots([Plan(2, 1, True)], 3)
    assert len(_slots([Plan(2, 1, False)], 3)) == 3


def test_the_array_script_gives_every_task_its_words(tiny, tmp_path):
    cells = cells_of([*tiny, *QUICK, "pruner=omp,lamp", "task.betas=[0.9, 0.98]"])
    resources = {"partition": "gpu", "minutes": 60, "cpus": 4, "memory_gb": 8, "at_a_time": 2}
    file = slurm.emit(cells, resources)
    assert file is not None
    text = file.read_text()
    for line in ("--array=0-1%2", "--requeue", "--signal=B:USR1@120", "--partition=gpu", "--ntasks-per-node=1"):
        assert f"#SBATCH {line}\n" in text
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    env = os.environ | {"SLURM_ARRAY_TASK_ID": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(file)], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [sys.executable, "-m", "vlp_bench", *cells[1].words]


def test_the_array_script_requeues_a_task_that_is_cut_short(tiny, tmp_path):
    """It asks for the queue only once the run, which gets the warning too, has saved its step."""
    [cell] = cells_of([*tiny, *QUICK, "pruner=omp"])
    resources = {"partition": None, "minutes": 60, "cpus": 4, "memory_gb": 8, "at_a_time": 2}
    file = slurm.emit([cell], resources)
    assert file is not None
    step = f"trap 'sleep 0.3; echo saved > {tmp_path}/asked; exit 138' USR1"
    (tmp_path / "srun").write_text(f"#!/bin/bash\n{step}\ntouch {tmp_path}/begun\nsleep 5 & wait\n")
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    own = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    task = subprocess.Popen(["bash", str(file)], env=os.environ | own, start_new_session=True)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    task.send_signal(signal.SIGUSR1)
    assert task.wait() == 0
    with suppress(ProcessLookupError):  # on a busy machine it is over
        os.killpg(task.pid, signal.SIGKILL)  # the sleep of the step
    assert (tmp_path / "asked").read_text() == "saved\nrequeue 7_0\n"


def test_submitit_is_an_extra_and_says_so(cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"vlp_bench\[slurm\]"):
        slurm.submit([cell], {})


@pytest.mark.parametrize(
    "typed, meant",
    [
        (["-m", "seed=0,1", "--emit-sbatch"], ["-m", "seed=0,1", "hydra/launcher=sbatch"]),
        (["seed=0", "--emit-sbatch"], ["-m", "seed=0", "hydra/launcher=sbatch"]),
        (["seed=0", "-m", "sparsity=0.5,0.9"], ["-m", "seed=0", "sparsity=0.5,0.9"]),
        (["seed=0", "--force"], ["seed=0", "force=true"]),
        (["--multirun", "seed=0,1"], ["-m", "seed=0,1"]),
    ],
)
def test_our_own_switches_are_said_in_hydras_words(typed, meant):
    assert _in_hydras_words(typed) == meant


@pytest.mark.slow
def test_a_multirun_is_one_fresh_process_for_each_run(tiny):
    words = [*tiny, *QUICK, "pruner=omp,dense", "seed=0", "hydra.launcher.n_parallel=2"]
    command = [sys.executable, "-m", "vlp_bench", "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs: 0 stored already" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "2 runs: 2 stored already, 0 to compute" in again.stdout
    wrong = subprocess.run([*command, "sparsity=2"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "0 <= sparsity < 1" in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", (0, 1))
def test_a_sweep_of_36_cells_killed_three_times_computes_nothing_twice(tiny, seed):
    """Killed with all its processes at random moments; two cells at a time."""
    for module in SLOW:
        import_module(module)
    grid = ["pruner=lamp,multiflow,omp,snip", "sparsity=0.63,0.75,0.9", "seed=0,1,2"]
    cells = cells_of([*tiny, "recipe.epochs=1", "data.num_workers=2", "data.source.train=8", *grid])
    assert len(cells) == 36

    def start():
        child = os.fork()
        if not child:
            os.setsid()
            Sweep(cells, n_parallel=2, start=forked).perform()
            os._exit(0)
        return child

    assert endure(cells, start, kills=3, seed=seed, say=print) == []
    out = cells[0].specification.out
    assert (out / "statistics").is_dir()
    assert [path for path in out.rglob(".*") if LEFT.fullmatch(path.name)] == []


def test_a_killed_cell_is_stored_by_one_of_two_sweeps_and_no_sweep_ends_well_without(tiny):
    """The short form of benchmarks/endurance/kill_cells.py: four cells, two loader workers each."""
    for module in SLOW:
        import_module(module)
    small = ["recipe.epochs=1", "data.num_workers=2", "pruner=omp,lamp", "sparsity=0.5", "seed=0,1"]
    cells = cells_of([*tiny, *small])
    ended = kill_cells.endure(cells, lambda: kill_cells.by_fork(cells), random.Random(3))
    assert ended.wrong() == []
    assert ended.killed in ended.results
    lost = replace(ended, results=ended.results | {ended.killed: 0})
    assert any("exit code 0 although 1 cells have no rows" in line for line in lost.wrong())
    assert replace(ended, results=ended.results | {ended.killed: 2}).wrong() == [f"{ended.killed} was stored 2 times"]


def test_a_cell_that_is_computed_again_is_found_out(tiny):
    cells = cells_of([*tiny, *QUICK, "pruner=omp"])
    store = Store(cells[0].folder.parent)

    def start():
        child = os.fork()
        if not child:
            times = [f"2026-01-01T00:00:0{n}+00:00" for n in range(2)]
            for time in times:
                store.append(cells[0].name, [row(run=cells[0].specification.run, provenance=ORIGIN | {"time": time})])
            os._exit(0)
        return child

    name = cells[0].name
    assert endure(cells, start, kills=0, seed=0, say=print) == [f"{name} was stored 2 times"]
    assert endure(cells, start, kills=1, seed=0, say=print) == ["the sweep ended before it was killed"]
