"""Scores, allocators and solvers of the user's own must leave alone what they look at: weights and statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlp_bench.pruning.checks import name_of
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.protocol import Statistic

T = TypeVar("T")
OURS = "vlp_bench."


def foreign(part: Any) -> list[str]:
    """The names of what a part is made of that is not this package's."""
    if isinstance(part, partial):
        return [name for inner in (part.func, *part.args, *part.keywords.values()) for name in foreign(inner)]
    made = type(part) if is_dataclass(part) else part
    own = [] if not callable(made) or str(getattr(made, "__module__", "")).startswith(OURS) else [name_of(part)]
    inside = [getattr(part, field.name) for field in fields(part)] if is_dataclass(part) else []
    return [*own, *(name for inner in inside for name in foreign(inner))]


@contextmanager
def weights_unchanged(pruner: Any, model: nn.Module) -> Iterator[None]:
    """Hold the user's own parts of a pruner to leave every weight of the model as it was; ours are trusted.

    Raises:
        ValueError: a weight has other values at the end, which it then has back; names the parts and the weight.
    """
    names = list(dict.fromkeys(foreign(pruner)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()} if names else {}
    try:
        yield
    finally:
        changed = [n for n, p in model.named_parameters() if n in before and not _same(p.detach(), before[n])]
        for name in changed:
            model.get_parameter(name).data = before[name]
    if changed:
        others = f" and {len(changed) - 1} more" * (len(changed) > 1)
        raise ValueError(
            f"{', '.join(names)} changed {changed[0]!r} in place{others}: "
            "parts of a pruner look at the weights and leave them as they are; work on a copy (weight.clone())"
        )


def _same(now: Tensor, before: Tensor) -> bool:
    return now.shape == before.shape and now.dtype == before.dtype and torch.equal(now, before)


class Shown(Calibration):
    """A calibration whose answers are copies: what is written into them is nobody else's."""

    @classmethod
    def of(cls, calibration: Calibration) -> Shown:
        """The same one, its answers copied when they are looked at."""
        shown = copy.copy(calibration)
        shown.__class__ = cls
        shown.__dict__["alive"] = Copies(calibration.alive)
        return shown  # pyright: ignore[reportReturnType]

    def __getitem__(self, statistic: Statistic[T]) -> T:
        found: Any = super().__getitem__(statistic)
        return Copies(found) if isinstance(found, Mapping) else copy.deepcopy(found)  # pyright: ignore[reportReturnType]


class Copies(dict[str, Tensor]):
    """A mapping of tensors that gives copies."""

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).clone()

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]
