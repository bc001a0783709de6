"""Several processes for one run: start them here, or join those that torchrun or srun has started.

Every process is a fresh interpreter that reads the same command line. They form their group before anything is pruned:
calibration is shared, and each holds the same mask before Lightning wraps the model.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vlp_bench.commands.errors import UserError
from vlp_bench.commands.spawn import RANKS, spawn
from vlp_bench.commands.specification import Specification
from vlp_bench.tasks.optimisation import accumulation

DDP = "lightning.pytorch.strategies.DDPStrategy"
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", DDP)
SRUN = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "NODE_RANK": "SLURM_NODEID"}


@dataclass(frozen=True)
class Plan:
    """How many processes a run is made of: one for each device of each node."""

    devices: int = 1
    nodes: int = 1
    gpu: bool = False
    chosen: tuple[int, ...] = ()  # which devices, where trainer.devices is a list

    @property
    def world(self) -> int:
        return self.devices * self.nodes

    def trainer_arguments(self) -> dict[str, Any]:
        """What a Trainer has to be told: counts it need not guess, and the strategy of several processes."""
        devices: Any = list(self.chosen) or self.devices
        several = {"strategy": {"_target_": DDP, "find_unused_parameters": True}}
        return {"devices": devices, "num_nodes": self.nodes} | (several if self.world > 1 else {"strategy": "auto"})

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Plan":
        """What conf/trainer asks for.

        Raises:
            UserError: a strategy that cannot keep zeros, or devices that cannot be counted.
            ValueError: the target batch cannot be made of the batches of these devices.
        """
        settings = config["trainer"]
        check_strategy(settings.get("strategy", "auto"))
        gpu = _wants_gpu(settings.get("accelerator", "auto"))
        given, nodes = settings.get("devices", 1), settings.get("num_nodes", 1)
        chosen = tuple(given) if isinstance(given, list) else ()
        plan = cls(len(chosen) or _count(given, gpu), int(nodes), gpu, chosen)
        target, batch = config["recipe"].get("target_batch"), config["data"].get("batch_size")
        if plan.world > 1 and target and batch:
            accumulation(target, batch, plan.devices, plan.nodes)
        return plan


def check_strategy(strategy: Any) -> None:
    """Raise UserError for a strategy under which pruned weights cannot be kept at zero."""
    name = strategy.get("_target_", "") if isinstance(strategy, Mapping) else str(strategy)
    if "fsdp" in name.lower() or "deepspeed" in name.lower():
        raise UserError(
            f"trainer.strategy={name}: it cuts every weight into flat pieces, one per process; a mask has the shape of "
            "its weight, so zeros could neither be kept nor verified. Use trainer=ddp, which holds every weight whole"
        )
    if name not in STRATEGIES:
        raise UserError(f"trainer.strategy={name}: allowed are {', '.join(STRATEGIES)}; trainer=ddp says it for you")


def _wants_gpu(accelerator: str) -> bool:
    if accelerator not in ("auto", "gpu", "cuda"):
        return False
    import torch

    return torch.cuda.is_available()


def _count(devices: Any, gpu: bool) -> int:
    if devices in ("auto", -1, "-1"):
        import torch

        return torch.cuda.device_count() if gpu else 1
    if not str(devices).isdigit() or int(devices) < 1:
        raise UserError(f"trainer.devices={devices}: a number from 1, a list of GPUs such as [0,1], or auto for all")
    return int(devices)


def perform(specification: Specification, arguments: Sequence[str]) -> None:
    """Run a specification in as many processes as it asks for; SystemExit with the code of one that failed."""
    plan, env = Plan.of(specification.config), os.environ | _srun(os.environ)
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

    os.environ.update({name: env[name] for name in RANKS if name in env})
    local = int(env.get("LOCAL_RANK", 0))
    if plan.gpu:
        torch.cuda.set_device(plan.chosen[local] if plan.chosen else local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if plan.gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _run(specification: Specification) -> None:
    from rich.console import Console

    from vlp_bench import processes
    from vlp_bench.commands.run import Helpers, run

    run(specification, None if processes.is_main() else Helpers(console=Console(quiet=True)))
