"""A sweep through SLURM: by submitit, or as a plain job array. Either has one owner of requeueing.

With submitit it is submitit; in the array it is the script itself. Lightning's own requeueing is off (see `recipe`).
A requeued run finds its folder, which follows from what it is, and goes on after its last checkpoint.
"""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp_bench.lifetime import bound
from vlp_bench.runs.checkpointing import write_whole
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.spawn import inherited
from vlp_bench.runs.specification import digest
from vlp_bench.runs.terminal.console import console
from vlp_bench.runs.terminal.errors import FAILED, UserError
from vlp_bench.spelling import count_of
from vlp_bench.sweeps.states import State
from vlp_bench.sweeps.sweep import Cell, distinct, overview

WARNING = 120  # seconds between SLURM's warning and the end of a task


def _todo(cells: Sequence[Cell]) -> list[Cell]:
    left = [c for c in distinct(cells) if c.specification.config["force"] or c.state() != State.DONE]
    console.print(f"{count_of(len(distinct(cells)), 'run')}, {len(left)} to compute")
    return left


def _plan(cells: Sequence[Cell]) -> Plan:
    """What every job asks for: one array has tasks of one size."""
    plans = {Plan.of(cell.specification) for cell in cells}
    if len(plans) > 1:
        raise UserError("the jobs of one array must ask for the same devices and nodes; start a sweep for each kind")
    return plans.pop()


def _folder(cells: Sequence[Cell]) -> Path:
    runs = sorted(cell.specification.run for cell in cells)
    return (cells[0].specification.out / "sweeps" / digest(runs)).resolve()


# By submitit


class Task:
    """What submitit stores and calls in a job: one command; cut short, it asks to be queued again."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def __call__(self) -> int:
        """The exit code of the command."""
        return subprocess.run(self.command, env=inherited(), check=False, preexec_fn=bound()).returncode

    def checkpoint(self) -> Any:
        """Called by submitit before the job's time is over."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        return DelayedSubmission(self)


def submit(cells: Sequence[Cell], resources: Mapping[str, Any]) -> None:
    """Queue the cells that are not done and, with `wait`, wait for them.

    Raises:
        UserError: submitit is not installed, or the jobs are of several nodes. SystemExit(1): a cell failed.
    """
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "hydra/launcher=slurm needs submitit: pip install 'vlp_bench[slurm]'; hydra/launcher=sbatch needs nothing"
        ) from None
    if not (todo := _todo(cells)):
        return
    plan = _plan(todo)
    if plan.nodes > 1:
        raise UserError("hydra/launcher=slurm runs each job on one node; use hydra/launcher=sbatch for several")
    executor = submitit.AutoExecutor(folder=str(_folder(todo) / "%j"), cluster=resources["cluster"])
    parameters = {
        "timeout_min": resources["minutes"], "cpus_per_task": resources["cpus"], "mem_gb": resources["memory_gb"],
        "gpus_per_node": plan.devices if plan.gpu else 0, "slurm_array_parallelism": resources["at_a_time"],
    }  # fmt: skip
    if resources["partition"] is not None:
        parameters["slurm_partition"] = resources["partition"]
    executor.update_parameters(**parameters)
    jobs = executor.map_array(lambda task: task(), [Task(cell.command()) for cell in todo])
    console.print(
        f"{count_of(len(jobs), 'job')} queued, the first is {jobs[0].job_id}; logs in {_folder(todo)}", soft_wrap=True
    )
    if resources["wait"]:
        _await(jobs, todo)


def _await(jobs: Sequence[Any], cells: Sequence[Cell]) -> None:
    for job in jobs:
        job.wait()
    console.print(overview(cells))
    if any(cell.state() != State.DONE for cell in cells):
        raise SystemExit(FAILED)


# As a plain array


def script(cells: Sequence[Cell], resources: Mapping[str, Any], folder: Path) -> str:
    """The text of a job array with a task for each cell."""
    plan = _plan(cells)
    options = {
        "job-name": "vlp_bench",
        "array": f"0-{len(cells) - 1}%{resources['at_a_time']}",
        "nodes": plan.nodes,
        "ntasks-per-node": plan.devices,
        "cpus-per-task": resources["cpus"],
        "mem": f"{resources['memory_gb']}G",
        "time": resources["minutes"],
        "signal": f"B:USR1@{WARNING}",
        "output": f"{folder}/%A_%a.log",
        "open-mode": "append",
    }
    if plan.gpu:
        options["gpus-per-node"] = plan.devices
    if resources["partition"] is not None:
        options["partition"] = resources["partition"]
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items()]
    tasks = [f"  {number}) words=({shlex.join(cell.words)}) ;;" for number, cell in enumerate(cells)]
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "#SBATCH --requeue",
            "# SLURM warns before the time is over: the run saves its last step, the task goes back into the queue.",
            "cut_short() {",
            '  kill -USR1 "$run" 2>/dev/null',
            f'  for _ in {{1..{WARNING - 30}}}; do kill -0 "$run" 2>/dev/null || break; sleep 1; done',
            '  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
            "  exit 0",
            "}",
            "trap cut_short USR1",
            f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
            'case "$SLURM_ARRAY_TASK_ID" in',
            *tasks,
            '  *) echo "no run has the number $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;',
            "esac",
            f'srun {shlex.quote(sys.executable)} -m vlp_bench "${{words[@]}}" &',
            "run=$!",
            'wait "$run"',
            "",
        ]
    )


def emit(cells: Sequence[Cell], resources: Mapping[str, Any]) -> Path | None:
    """Write the script of a job array for the cells that are not done; None if all are."""
    if not (todo := _todo(cells)):
        return None
    folder = _folder(todo)
    file = folder / "array.sh"
    write_whole(file, script(todo, resources, folder).encode())
    console.print(f"start it with: sbatch {shlex.quote(str(file))}", soft_wrap=True)
    return file
