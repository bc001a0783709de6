"""Passes over the data that go on where the last one stopped: for pruning block by block.

Every pass needs the inputs of one block. What lies before it doesn't change any more and is given again; the pass ends
where the block's last weight has seen its last input. So each block is computed twice: dense, for its inputs, and
pruned, for what follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vlp_bench.pruning.adapter import Adapter
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.activation_cache import blocks_of, copied
from vlp_bench.pruning.statistics.around import Around


class ControlFlowChanged(Exception):
    """A batch runs through the model in another way than the first batch did: nothing may be left out."""


class _Done(BaseException):
    """Ends a pass; no model catches it by accident."""


@dataclass(frozen=True)
class Tape:
    """What the first calls of blocks gave for one part of a batch, and how often each call read which layer."""

    outputs: list[Any] = field(default_factory=list)
    reads: list[Counter[str]] = field(default_factory=list)


class Resuming(Around):
    """An adapter whose `encode` resumes; all else is the given adapter's.

    Keeps the outputs of all blocks for all batches, on their device.

    Args:
        adapter: answers for the model.
        model: its weights may change between passes, but only those of layers that were `wanted` in an earlier pass.
        layers: all prunable layers.
    """

    def __init__(self, adapter: Adapter, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        super().__init__(adapter)
        self._layers = layers
        self._blocks = [b for b in blocks_of(model, layers.values()) if not isinstance(b, nn.MultiheadAttention)]
        self._wanted: list[str] = []
        self._solved: set[str] = set()
        self._expected: list[Counter[str]] = []  # readings of every layer, by part of the first batch
        self._tapes: list[Tape] = []
        self._part = 0
        self._may_stop, self._outputs = False, False
        self.calls = 0  # of blocks that were run in earnest, after the first batch's

    @contextmanager
    def exploring(self) -> Iterator[None]:
        """Whole passes, to learn how often the parts of a batch read each layer."""
        self._expected = []
        yield
        self.calls = 0

    def rewind(self) -> None:
        """A pass over the batches begins."""
        self._part = 0

    @contextmanager
    def with_outputs(self) -> Iterator[None]:
        """Passes run a block to its end, for what it gives; else they stop where its last weight is read."""
        self._outputs = True
        try:
            yield
        finally:
            self._outputs = False

    def next_pass(self, wanted: Iterable[str]) -> None:
        """The passes that follow are for the inputs of these layers; those of earlier ones have their last values."""
        self._solved.update(self._wanted)
        self._wanted = list(wanted)
        self._may_stop = len(self._solved) + len(self._wanted) < len(self._layers)  # the last looks for the unforeseen

    def encode(self, model: nn.Module, batch: Any) -> None:
        """The given adapter's, as far as it must be run.

        Raises:
            ControlFlowChanged: a layer is read more often than in the first batch.
        """
        if not self._wanted:
            run = _Run(self, Tape(), Counter())
            run.through(model, batch)
            self._expected.append(run.seen)
            return
        if self._part == len(self._tapes):
            self._tapes.append(Tape())
        _Run(self, self._tapes[self._part], self._expected[self._part % len(self._expected)]).through(model, batch)
        self._part += 1


class _Run:
    """One part of one batch in one pass."""

    def __init__(self, plan: Resuming, tape: Tape, expected: Counter[str]) -> None:
        self.plan, self.tape, self.expected = plan, tape, expected
        self.seen: Counter[str] = Counter()
        self.calls = 0
        self.final = bool(plan._wanted)  # whether all that was read so far has its last values

    def through(self, model: nn.Module, batch: Any) -> None:
        with ExitStack() as undo:
            for name, layer in self.plan._layers.items():
                for reader in layer.readers:
                    if layer.stack is not None:  # what its slices read is seen while the module runs
                        undo.callback(reader.module.register_forward_pre_hook(self._before(name)).remove)
                        undo.callback(reader.module.register_forward_hook(self._reading(name)).remove)
                    else:
                        undo.callback(reader.module.register_forward_pre_hook(self._reading(name)).remove)
            for block in self.plan._blocks:
                undo.callback(block.__dict__.update, {k: v for k, v in vars(block).items() if k == "forward"})
                undo.callback(block.__dict__.pop, "forward", None)
                block.forward = self._forward(block.forward)
            with suppress(_Done):
                self.plan.answers.encode(model, batch)

    def _before(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.final = self.final and (not self.expected or name in self.plan._solved)

        return hook

    def _reading(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            over = self.plan._outputs and self._has_read_all()
            self.seen[name] += 1
            if not self.expected:
                return
            if name in self.plan._solved:
                if self.seen[name] > self.expected[name]:
                    raise ControlFlowChanged(name)
                return
            self.final = False
            if self.plan._may_stop and (over or (not self.plan._outputs and self._has_read_all())):
                raise _Done

        return hook

    def _has_read_all(self) -> bool:
        return all(0 < self.expected[own] <= self.seen[own] for own in self.plan._wanted)

    def _forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def resumed(*args: Any, **kwargs: Any) -> Any:
            number = self.calls
            self.calls += 1
            if number < len(self.tape.outputs):
                self.seen.update(self.tape.reads[number])
                return copied(self.tape.outputs[number])
            self.plan.calls += 1
            before = self.seen.copy()
            output = forward(*args, **kwargs)
            if self.final:
                self.tape.outputs.append(copied(output))
                self.tape.reads.append(self.seen - before)
            return output

        return resumed
