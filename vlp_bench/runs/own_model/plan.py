"""What pruning a model would take, from its configuration alone: weights by block, passes, bytes, operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from vlp_bench.models.offloading import outermost_blocks
from vlp_bench.pruning.needs import Needs
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.solvers.layer_by_layer import LayerSolver
from vlp_bench.pruning.sweep import is_at_once
from vlp_bench.runs.own_model.request import Request

GIB = 2.0**30
LENGTH = 512  # tokens of a sequence, where max_length doesn't say


@dataclass(frozen=True)
class Plan:
    """Bytes and counts.

    Attributes:
        weights: of the whole model.
        resident: of what lies outside all blocks.
        block: of the largest block.
        outputs: of what one block gives for all calibration data.
        products: of the float64 products of what reaches the widest block's layers; 0 for methods without them.
        passes: over the calibration data, forwards and backwards.
        operations: of the passes, two a weight and token, and four more where gradients are asked for.
    """

    weights: int
    resident: int
    block: int
    outputs: int
    products: int
    passes: tuple[float, float]
    operations: float


def plan_of(model: nn.Module, request: Request, pruner: Pruner, needs: Needs) -> Plan:
    """The plan for a model whose weights may be on the meta device."""
    blocks = outermost_blocks(model)
    size = (getattr(torch, request.dtype) if request.dtype else _stored(model)).itemsize
    weights, inside = _count(model), sum(map(_count, blocks))
    tokens = request.num_samples * (request.max_length or LENGTH)
    width = max((m.in_features for m in model.modules() if isinstance(m, nn.Linear)), default=0)
    narrow = int(getattr(model.config, "hidden_size", 0) or width)  # pyright: ignore[reportArgumentType]
    wants_products = isinstance(pruner.solve, LayerSolver)
    forward, backward = (2.0, 0.0) if not is_at_once(pruner.sweep) else (needs.forward, needs.backward)
    return Plan(
        weights * size,
        (weights - inside) * size,
        max(map(_count, blocks), default=0) * size,
        tokens * narrow * size,
        max(map(_products, blocks), default=0) if wants_products else 0,
        (forward, backward),
        (2 * forward + 4 * backward) * inside * tokens,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _products(block: nn.Module) -> int:
    """8 bytes for each pair of the inputs of every linear layer; layers that read one tensor count each."""
    return sum(8 * module.in_features**2 for module in block.modules() if isinstance(module, nn.Linear))


def _stored(model: Any) -> torch.dtype:
    own = getattr(model.config, "dtype", None)
    return own if isinstance(own, torch.dtype) else torch.float32


def show(console: Console, plan: Plan, request: Request) -> None:
    """The plan in lines; seconds only at a rate that was measured."""
    forward, backward = plan.passes
    lines = {
        "weights": f"{plan.weights / GIB:.2f} GiB: {plan.resident / GIB:.2f} outside blocks, "
        f"{plan.block / GIB:.2f} in the largest block",
        "on the device": f"{(plan.resident + plan.block) / GIB:.2f} GiB of weights with offload=true, "
        f"{plan.weights / GIB:.2f} without",
        "between blocks": f"{plan.outputs / GIB:.2f} GiB for {request.num_samples} sequences of "
        f"{request.max_length or LENGTH} tokens",
        "passes": f"{forward:g} forwards, {backward:g} backwards over the calibration data: "
        f"{plan.operations / 1e12:.0f} TFLOP",
        "seconds": f"{plan.operations / 1e12 / request.tflops:.0f} for the passes, at {request.tflops} TFLOP/s"
        if request.tflops
        else "not said: tflops=NUMBER gives a rate that was measured, as `python -m benchmarks.gpu` does",
    }
    if plan.products:
        lines["products"] = f"at most {plan.products / GIB:.2f} GiB"
    for name, text in lines.items():
        console.print(f"[bold]{name}:[/] {escape(text)}", soft_wrap=True)
