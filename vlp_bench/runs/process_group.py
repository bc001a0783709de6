"""Several processes for one run: start them here, or join those that torchrun or srun has started.

Every process is a fresh interpreter that reads the same command line. They form their group before anything is pruned:
calibration is shared, and each holds the same mask before Lightning wraps the model.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.spawn import RANKS, spawn
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.terminal.errors import GOES_ON, UserError

SRUN = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "NODE_RANK": "SLURM_NODEID"}


def perform(specification: Specification, arguments: Sequence[str]) -> None:
    """Run a specification in as many processes as it asks for; SystemExit with the code of one that failed."""
    plan, env = Plan.of(specification), os.environ | _srun(os.environ)
    started = int(env.get("WORLD_SIZE", 1)) if "RANK" in env else 1
    if started > 1 and started != plan.world:
        raise UserError(
            f"{started} processes were started, but trainer.devices × trainer.num_nodes is {plan.devices} × "
            f"{plan.nodes} = {plan.world}; make them equal (trainer=ddp trainer.devices={started} on one node)"
        )
    if plan.world == 1:
        _run(specification)
    elif started > 1:
        with joined(plan, env):
            _run(specification)
    elif plan.nodes > 1:
        raise UserError(
            f"trainer.num_nodes={plan.nodes}: one process cannot start others on another machine; start the command "
            f"with srun --nodes={plan.nodes} --ntasks-per-node={plan.devices}, or with torchrun on every node"
        )
    else:
        if code := spawn(plan.devices, arguments):
            raise SystemExit(code)


def _srun(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of torch's own starter, from those of srun; empty outside a step of several tasks."""
    tasks = env.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in env or tasks == "1" or "SLURM_PROCID" not in env:
        return {}
    from lightning.pytorch.plugins.environments import SLURMEnvironment  # pyright: ignore[reportPrivateImportUsage]

    host = SLURMEnvironment.resolve_root_node_address(env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "")))
    port = str(15000 + int(env.get("SLURM_JOB_ID", "0")) % 20000)
    found = {name: env[other] for name, other in SRUN.items() if other in env}
    return found | {"WORLD_SIZE": tasks, "MASTER_ADDR": host, "MASTER_PORT": port}


@contextmanager
def joined(plan: Plan, env: Mapping[str, str]) -> Iterator[None]:
    """Be one process of the group that the environment describes."""
    import torch
    import torch.distributed as dist

    from vlp_bench import processes

    os.environ.update({name: env[name] for name in RANKS if name in env})
    local = int(env.get("LOCAL_RANK", 0))
    if plan.gpu:
        torch.cuda.set_device(plan.chosen[local] if plan.chosen else local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if plan.gpu else "gloo")
    try:
        yield
    except RuntimeError as error:
        if not processes.lost(error):
            raise
        raise ConnectionAbortedError(errno.ECONNABORTED, f"another process of this run has ended; {GOES_ON}") from error
    finally:
        dist.destroy_process_group()


def _run(specification: Specification) -> None:
    from rich.console import Console

    from vlp_bench import processes
    from vlp_bench.runs.run import Helpers, run

    run(specification, None if processes.is_main() else Helpers(console=Console(quiet=True)))
