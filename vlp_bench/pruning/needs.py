"""What a pruner asks of its data, seen by running it on a network of five layers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vlp_bench.pruning.pruner import Pruner

WIDTH, CLASSES, ROWS, BATCHES = 8, 4, 4, 4
FEW = 8  # passes over the calibration batches


@dataclass(frozen=True)
class Needs:
    """How often a pruner has gone through its calibration batches.

    Args:
        forward: forward passes, in rounds of all batches.
        backward: those of them that were followed by a backward pass.
        trains: whether an optimiser has taken a step.
    """

    forward: float
    backward: float
    trains: bool

    @property
    def reads(self) -> str:
        """What its scores are made of beside the weights."""
        kinds = {"training": self.trains, "gradients": self.backward > 0, "activations": self.forward > 0}
        return next((kind for kind, so in kinds.items() if so), "weights")

    @property
    def cost(self) -> str:
        """No pass, one pass, few or many passes over the calibration batches."""
        passes = math.ceil(self.forward)
        return (
            "no pass" if not passes else "one pass" if passes == 1 else f"{'few' if passes <= FEW else 'many'} passes"
        )


def needs_of(pruner: Pruner) -> Needs:
    """Prune half of a small network and count.

    Raises:
        ValueError: the pruner refuses such a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Counting()
        batches = [(torch.randn(ROWS, WIDTH), torch.randint(CLASSES, (ROWS,))) for _ in range(BATCHES)]
    steps: list[None] = []
    handle = register_optimizer_step_pre_hook(lambda *_: steps.append(None))
    try:
        with _unsaid():
            pruner.prune(model, 0.5, batches)
    finally:
        handle.remove()
    return Needs(model.calls.forward / BATCHES, model.calls.backward / BATCHES, bool(steps))


@contextmanager
def _unsaid() -> Iterator[None]:
    """Nothing is logged: what is said of these five layers is of nobody's model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@dataclass
class _Calls:
    forward: int = field(default=0)
    backward: int = field(default=0)


class _Counting(nn.Module):
    """Two blocks and a head that count the passes through them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, CLASSES)
        self.calls = _Calls()
        self.head.weight.register_hook(self._count_backward)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.forward += 1
        for block in self.blocks:
            inputs = block(inputs)
        return self.head(inputs)

    def _count_backward(self, _: Tensor) -> None:
        self.calls.backward += 1
