"""The one function that says the pruning sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, overload

from torch import nn

from vlp_bench.pruning.adapter import Adapter
from vlp_bench.pruning.catalogue import load, names
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.solution import Solution, Solutions
from vlp_bench.pruning.statistics.calibration import Calibration


@overload
def prune(
    model: nn.Module,
    pruner: str | Pruner = "multiflow",
    sparsity: float = 0.9,
    calibration: Calibration | Iterable[Any] | None = None,
    adapter: Adapter | None = None,
    options: Mapping[str, Any] | None = None,
) -> Solution: ...


@overload
def prune(
    model: nn.Module,
    pruner: str | Pruner = "multiflow",
    *,
    sparsity: Iterable[float],
    calibration: Calibration | Iterable[Any] | None = None,
    adapter: Adapter | None = None,
    options: Mapping[str, Any] | None = None,
) -> Solutions: ...


@overload
def prune(
    model: nn.Module,
    pruner: str | Pruner,
    sparsity: Iterable[float],
    calibration: Calibration | Iterable[Any] | None = None,
    adapter: Adapter | None = None,
    options: Mapping[str, Any] | None = None,
) -> Solutions: ...


def prune(
    model: nn.Module,
    pruner: str | Pruner = "multiflow",
    sparsity: float | Iterable[float] = 0.9,
    calibration: Calibration | Iterable[Any] | None = None,
    adapter: Adapter | None = None,
    options: Mapping[str, Any] | None = None,
) -> Solution | Solutions:
    """Finds which weights of a model to remove, without changing it.

    Args:
        model: any `nn.Module`.
        pruner: a name from conf/pruner, or a `Pruner`.
        sparsity: share of the prunable weights to remove, in [0, 1), or several of them.
        calibration: re-iterable batches of any type, or a `Calibration`; None for pruners that ask no data.
        adapter: answers to six questions about the model; None: the model's own, or a plain classifier's.
        options: keys of the pruner's yaml or of its parts' ("solve.within"); only for a name.

    Returns:
        A `Solution` for a number, `Solutions` by sparsity for several.

    Raises:
        ValueError: says what was given and what is allowed.
    """
    if isinstance(pruner, str):
        pruner = load(pruner, options)
    elif options:
        raise ValueError(f"options are for a pruner given by name; set {', '.join(options)} on the Pruner itself")
    if not isinstance(pruner, Pruner):
        raise ValueError(
            f"pruner is of type {type(pruner).__name__}: give a name (one of {', '.join(names())}) or a Pruner"
        )
    return pruner.prune(model, sparsity, calibration, adapter)
