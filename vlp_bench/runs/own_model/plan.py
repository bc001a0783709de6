"""What pruning a model would take, from its configuration alone: weights by block, passes, bytes, operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from vlp_bench.models.foreign.inputs import LONGEST, reads
from vlp_bench.models.foreign.likelihood import longest
from vlp_bench.models.offloading import outermost_blocks
from vlp_bench.pruning.needs import Needs, needs_of
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.schedule import one_shot
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.solvers.chita.solver import Chita
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.solvers.layer_by_layer import LayerSolver
from vlp_bench.pruning.sweep import at_once, is_at_once
from vlp_bench.runs.own_model.request import Request
from vlp_bench.spelling import count_of

UNITS = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
USUAL = (224, 16)  # pixels of an image and of a patch, where config.json has no number for them
LEAST = 0.1  # of a unit that a number is said in


@dataclass(frozen=True)
class Plan:
    """Bytes and counts.

    Attributes:
        weights: of the whole model.
        resident: of what lies outside all blocks.
        block: of the largest block.
        tokens: of a sequence: as many as are asked for (512 unless told), at most what the model has places for; of a
            model that reads images alone its patches.
        outputs: of what one block gives for all calibration data.
        products: of the float64 products of what reaches the widest block's layers, all blocks' where all weights are
            looked at together; 0 for methods without them.
        passes: over the calibration data, forwards and backwards, those for the budgets among them.
        more: whether there are more the more layers a model has, or the less memory CHITA may use.
        at_once: whether all weights are looked at together, which no offloading allows.
        operations: of the passes, two a weight and token, and four more where gradients are asked for.
    """

    weights: int
    resident: int
    block: int
    tokens: int
    outputs: int
    products: int
    passes: tuple[float, float]
    more: bool
    at_once: bool
    operations: float


def plan_of(model: nn.Module, request: Request, pruner: Pruner, needs: Needs) -> Plan:
    """The plan for a model whose weights may be on the meta device."""
    blocks = outermost_blocks(model)
    size = (getattr(torch, request.dtype) if request.dtype else _stored(model)).itemsize
    weights, inside = _count(model), sum(map(_count, blocks))
    length = _length(model, request)
    tokens = request.num_samples * length
    width = max((m.in_features for m in model.modules() if isinstance(m, nn.Linear)), default=0)
    narrow = int(getattr(model.config, "hidden_size", 0) or width)  # pyright: ignore[reportArgumentType]
    wants_products = isinstance(pruner.solve, LayerSolver) or pruner.values is not None
    together, products = is_at_once(pruner.sweep), [_products(block) for block in blocks]
    forward, backward, more = needs.forward, needs.backward, isinstance(pruner.solve, Chita)
    if not together:  # every block runs twice
        budgets = _needs_of_budgets(pruner)
        forward, backward, more = 2 + budgets.forward, budgets.backward, budgets.forward > 1
    return Plan(
        weights * size,
        (weights - inside) * size,
        max(map(_count, blocks), default=0) * size,
        length,
        tokens * narrow * size,
        (sum(products) if together else max(products, default=0)) if wants_products else 0,
        (forward, backward),
        more,
        together or pruner.schedule is not one_shot,
        (2 * forward + 4 * backward) * inside * tokens,
    )


def _needs_of_budgets(pruner: Pruner) -> Needs:
    """What sharing out the budgets asks of the data by itself."""
    return needs_of(
        replace(pruner, sweep=at_once, schedule=one_shot, solve=KeepTop(magnitude), tokens=None, values=None)
    )


def _length(model: Any, request: Request) -> int:
    """Tokens of a sequence, see `Plan.tokens`."""
    config = model.config
    if reads(model) == {"image"}:
        sides = [getattr(config, key, None) for key in ("image_size", "patch_size")]
        size, patch = (side if isinstance(side, int) else usual for side, usual in zip(sides, USUAL, strict=True))
        return (size // patch) ** 2 + 1
    asked = request.max_length or LONGEST
    return min(asked, longest(model) or asked)


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
        "weights": f"{_bytes(plan.weights)}: {_bytes(plan.resident)} outside blocks, "
        f"{_bytes(plan.block)} in the largest block",
        "on the device": f"{_bytes(plan.weights)} of weights",
    }
    if not plan.at_once:
        with_offload = f"{_bytes(plan.resident + plan.block)} of weights with offload=true"
        lines["on the device"] = f"{with_offload}, {_bytes(plan.weights)} without"
        sequences, tokens = count_of(request.num_samples, "sequence"), count_of(plan.tokens, "token")
        lines["between blocks"] = f"{_bytes(plan.outputs)} for {sequences} of {tokens}"
    lines |= {
        "passes": f"{'at least ' * plan.more}{forward:g} forwards, {backward:g} backwards over the calibration data: "
        f"{_rounded(plan.operations / 1e12)} TFLOP",
        "seconds": f"{_rounded(plan.operations / 1e12 / request.tflops)} for the passes, at {request.tflops} TFLOP/s"
        if request.tflops
        else "not said: tflops=NUMBER gives a rate that was measured, as `python -m benchmarks.gpu` does",
    }
    if plan.products:
        lines["products"] = f"at most {_bytes(plan.products)}"
    for name, text in lines.items():
        console.print(f"[bold]{name}:[/] {escape(text)}", soft_wrap=True)


def _bytes(number: float) -> str:
    """'0.38 GiB', '52.10 MiB': in a unit that leaves something to say."""
    unit, size = next(((unit, size) for unit, size in UNITS if number >= LEAST * size), ("bytes", 1))
    return f"{number:,.0f} bytes" if size == 1 else f"{number / size:.2f} {unit}"


def _rounded(number: float) -> str:
    """Without decimals, but for what is less than ten: two digits of that."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
