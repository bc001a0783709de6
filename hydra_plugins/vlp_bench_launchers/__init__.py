"""Hydra's launchers of vlp_bench: every job of a multirun is a fresh process, here or through SLURM.

Hydra looks for launchers in the namespace package `hydra_plugins` and reads all of it at every start: nothing heavy is
imported here. One fresh process per job, as Lightning's DDP would otherwise start the whole sweep again in each of its
processes, and a logger would go on with the run before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from vlp_bench.sweeps.sweep import Cell


class _Cells(Launcher):
    """What the launchers share: all jobs are composed and checked before the first is started."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what composes the jobs."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Perform the jobs; what came of each is in its folder."""
        from hydra.core.utils import JobReturn, JobStatus

        self.perform([self._cell(list(words)) for words in job_overrides])
        done = JobReturn()
        done.status = JobStatus.COMPLETED
        return [done for _ in job_overrides]

    def _cell(self, words: list[str]) -> Cell:
        from vlp_bench.runs.specification import specify
        from vlp_bench.sweeps.sweep import Cell

        config = self.context.config_loader.load_sweep_config(self.config, words)
        own = tuple(word for word in words if not word.lstrip("+~").startswith("hydra"))
        return Cell(specify(config, config.hydra), own)

    def perform(self, cells: list[Cell]) -> None:
        raise AssertionError("a launcher performs its jobs")


class FreshProcesses(_Cells):
    """Jobs on this machine; see `vlp_bench.sweeps.sweep.Sweep` for the arguments."""

    def __init__(self, n_parallel: int | None = None, retries: int = 1) -> None:
        self.n_parallel, self.retries = n_parallel, retries

    def perform(self, cells: list[Cell]) -> None:
        from vlp_bench.sweeps.sweep import sweep

        sweep(cells, n_parallel=self.n_parallel, retries=self.retries)


class Submitit(_Cells):
    """Jobs through SLURM by submitit; see `vlp_bench.sweeps.slurm.submit`."""

    def __init__(self, **resources: Any) -> None:
        self.resources = resources

    def perform(self, cells: list[Cell]) -> None:
        from vlp_bench.sweeps.slurm import submit

        submit(cells, self.resources)


class Sbatch(_Cells):
    """A job array as a script for sbatch; see `vlp_bench.sweeps.slurm.emit`."""

    def __init__(self, **resources: Any) -> None:
        self.resources = resources

    def perform(self, cells: list[Cell]) -> None:
        from vlp_bench.sweeps.slurm import emit

        emit(cells, self.resources)
