"""Builds what a run needs, and keeps it for the next run: weights are read once, however many cells are computed."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hydra.utils import get_class, instantiate
from torch import nn

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

    def model(self, config: Mapping[str, Any]) -> nn.Module:
        """A fresh model with its pre-trained weights."""
        return copy.deepcopy(self._once(config["model"]))

    def data(self, config: Mapping[str, Any]) -> Any:
        """A LightningDataModule that is TaskData as well."""
        return self._once(config["data"])

    def _once(self, arguments: Mapping[str, Any]) -> Any:
        key = digest(arguments)
        if key not in self._built:
            self._built[key] = build(arguments)
        return self._built[key]


def task_class(config: Mapping[str, Any]) -> type[FineTuning]:
    """The class of conf/task: what it monitors and shows is known before it is built."""
    return get_class(config["task"]["_target_"])


def monitored(config: Mapping[str, Any]) -> str:
    """The metric that decides which epoch is tested: task.best where the task has a choice."""
    return config["task"].get("best") or task_class(config).MONITOR


def inspect(model: Any, data: Any, config: Mapping[str, Any]) -> None:
    """Let the data look at its texts before anything is computed; ValueError if they do not fit the model."""
    rows = getattr(getattr(model, "config", None), "vocab_size", None)
    data.inspect(rows, training=config["recipe"]["epochs"] > 0)


def build(arguments: Mapping[str, Any]) -> Any:
    """The object of a config group; plain lists and dicts reach its constructor, never a DictConfig."""
    return instantiate(arguments, _convert_="all")


def maker(arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The constructor of a config group with its arguments filled in, for objects that need more than a config says."""
    return instantiate(arguments, _convert_="all", _partial_=True)
