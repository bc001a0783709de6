"""What every evaluation of a model as it is has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from transformers import PreTrainedModel

from vlp_bench.models.foreign.inputs import Inputs

T = TypeVar("T")
Watch = Callable[[Sequence[Any], str], Iterable[Any]]
"""Batches, and what is done with them -> the same batches, counted by whoever shows how far it is."""


def unwatched(batches: Sequence[Any], what: str) -> Iterable[Any]:
    """Nobody looks."""
    return batches


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        values: by metric, in percent (perplexity and captions' scores in their own units).
        notes: what has to be known about a metric.
        said: what the model said to each example, JSON, in the order of the data.
    """

    values: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
    said: Sequence[Mapping[str, Any]] = ()


class Task(Protocol):
    """What is measured of a model as it is; its fields are the keys of conf/evaluation."""

    READS: ClassVar[str]
    """The kind of its data, see `data.datasets.evaluated`."""
    NEEDS: ClassVar[str]
    """Which models it is for, in words."""

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether a model can be asked."""
        ...

    def measure(self, model: PreTrainedModel, inputs: Inputs, data: Any, watch: Watch) -> Measured:
        """The numbers of a model in evaluation mode.

        Args:
            inputs: what makes its batches.
            data: of the kind `READS`.
            watch: sees the batches.

        Raises:
            ValueError: model and data don't go together.
        """
        ...


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive parts of `size`, the last may be smaller."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def check_counts(**counts: int) -> None:
    """Raise ValueError for a count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"task.{name}={count}: at least 1 is needed")


def numbered(parts: Iterable[Sequence[T]]) -> Iterator[tuple[int, Sequence[T]]]:
    """Each part with the number of its first item."""
    at = 0
    for part in parts:
        yield at, part
        at += len(part)
