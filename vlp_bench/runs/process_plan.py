"""How many processes a run is made of, how many examples each sees, and what a Trainer has to be told about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vlp_bench.runs.device import root_device
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.tasks.optimisation import accumulation

DDP = "lightning.pytorch.strategies.DDPStrategy"
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", DDP)


@dataclass(frozen=True)
class Plan:
    """How many processes a run is made of: one for each device of each node.

    `batch_size` is how many examples each sees at a time; None where the data have no say in it.
    """

    devices: int = 1
    nodes: int = 1
    gpu: bool = False
    chosen: tuple[int, ...] = ()  # which devices, where trainer.devices is a list
    batch_size: int | None = field(default=None, compare=False)

    @property
    def world(self) -> int:
        return self.devices * self.nodes

    def trainer_arguments(self) -> dict[str, Any]:
        """What a Trainer has to be told: counts it need not guess, and the strategy of several processes."""
        devices: Any = list(self.chosen) or self.devices
        several = {"strategy": {"_target_": DDP, "find_unused_parameters": True}}
        return {"devices": devices, "num_nodes": self.nodes} | (several if self.world > 1 else {"strategy": "auto"})

    def fit(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration whose data hand out `batch_size` examples at a time."""
        changes = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return dict(config) | {"data": config["data"] | changes}

    @classmethod
    def of(cls, specification: Specification) -> "Plan":
        """What conf/trainer asks for, and batches that keep the recipe's target batch.

        data.batch_size is that of one device. Where devices would see more than the target, or no divisor of it, they
        take the largest batches that fit, unless data.batch_size was typed.

        Raises:
            UserError: a strategy that cannot keep zeros, or devices that cannot be counted.
            ValueError: the target batch cannot be made of the batches of these devices.
        """
        settings = specification.config["trainer"]
        check_strategy(settings.get("strategy", "auto"))
        gpu = root_device(specification.config).type == "cuda"
        given, nodes = settings.get("devices", 1), settings.get("num_nodes", 1)
        chosen = tuple(given) if isinstance(given, list) else ()
        count = len(chosen) or _count(given, gpu)
        return cls(count, int(nodes), gpu, chosen, _batch_size(specification, count, int(nodes)))


def _batch_size(specification: Specification, devices: int, nodes: int) -> int | None:
    """Examples for each device at a time."""
    config, world = specification.config, devices * nodes
    target, given = config["recipe"].get("target_batch"), config["data"].get("batch_size")
    if not target or not given:
        return given
    typed = any(word.lstrip("+").startswith("data.batch_size=") for word in specification.overrides)
    if not typed and target % world == 0:
        share = target // world
        given = max(n for n in range(1, min(share, given) + 1) if share % n == 0)
    try:
        accumulation(target, given, devices, nodes)
    except ValueError as error:
        keys = f"recipe.target_batch={target}, data.batch_size={given}, trainer.devices={devices}"
        raise ValueError(f"{keys}: {error}") from error
    return given


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


def _count(devices: Any, gpu: bool) -> int:
    if devices in ("auto", -1, "-1"):
        return torch.cuda.device_count() if gpu else 1
    if not str(devices).isdigit() or int(devices) < 1:
        raise UserError(f"trainer.devices={devices}: a number from 1, a list of GPUs such as [0,1], or auto for all")
    return int(devices)
