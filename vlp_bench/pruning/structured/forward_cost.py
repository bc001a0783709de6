"""What one forward pass of a model costs: parameters, floating-point operations, milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Forward = Callable[[nn.Module], Any]


def _attention(query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Of the processor's fused attention, which torch's counter leaves out."""
    return sdpa_flop_count(query, key, value)


ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


@dataclass(frozen=True)
class ForwardCost:
    """Parameters (a shared one once), operations (a multiplication and an addition are two), median milliseconds."""

    parameters: int
    flops: int
    milliseconds: float


@torch.no_grad()
def forward_costs(models: Sequence[nn.Module], forward: Forward, rounds: int = 5) -> list[ForwardCost]:
    """Of each model, measured in turn, round by round, in evaluation mode; the first round warms up.

    Args:
        models: on one device.
        forward: one pass on data of its own.
        rounds: how many are counted.
    """
    flops = []
    for model in models:
        model.eval()
        with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
            forward(model)
        flops.append(counter.get_total_flops())
    spent: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for own, model in zip(spent, models, strict=True):
            own.append(_milliseconds(model, forward))
    counted = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    return [ForwardCost(n, f, median(own)) for n, f, own in zip(counted, flops, spent, strict=True)]


def _milliseconds(model: nn.Module, forward: Forward) -> float:
    _wait()
    started = time.perf_counter()
    forward(model)
    _wait()
    return 1000 * (time.perf_counter() - started)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
