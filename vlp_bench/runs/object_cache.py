"""Builds what a run needs, and keeps it for the next run: weights are read once, however many cells are computed."""

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from vlp_bench.construct import construct, locate
from vlp_bench.runs.specification import digest
from vlp_bench.tasks.finetuning import FineTuning


class TaskData(Protocol):
    """What a run asks of its data beside what Lightning asks."""

    batch_size: int

    def inspect(self, rows: int | None = None, *, training: bool = True) -> None:
        """Look at the texts before anything is computed, with the rows of the model's table of words."""
        ...

    def calibration(self) -> Iterable[Any]:
        """Re-iterable batches for the pruner, the same for every seed."""
        ...

    def calibration_fingerprint(self) -> str:
        """Hash of those batches."""
        ...

    def fingerprint(self) -> str:
        """Hash of what is trained and tested on."""
        ...


@dataclass
class ObjectCache:
    """Caches by configuration. Models are handed out as copies, data as they are (they hold no state of a run)."""

    _built: dict[str, Any] = field(default_factory=dict)

    def model(self, config: Mapping[str, Any], allow: Collection[str] = ()) -> nn.Module:
        """A fresh model with its pre-trained weights; `allow` as in `construct`, never of a stored configuration."""
        return copy.deepcopy(self._once(config["model"], "model", allow))

    def data(self, config: Mapping[str, Any], allow: Collection[str] = ()) -> Any:
        """A LightningDataModule that is TaskData as well; `allow` as above."""
        return self._once(config["data"], "data", allow)

    def _once(self, arguments: Mapping[str, Any], where: str, allow: Collection[str]) -> Any:
        key = digest([arguments, sorted(allow)])
        if key not in self._built:
            self._built[key] = construct(arguments, where, allow)
        return self._built[key]


def task_class(config: Mapping[str, Any]) -> type[FineTuning]:
    """The class of conf/task: what it monitors and shows is known before it is built."""
    found: Any = locate(config["task"]["_target_"], config.get("allow", ()), "task")
    return found


def monitored(config: Mapping[str, Any]) -> str:
    """The metric that decides which epoch is tested: task.best where the task has a choice."""
    return config["task"].get("best") or task_class(config).MONITOR
