"""Passes over the data that go on where the last one stopped: for pruning block by block.

Every block is computed twice: dense, for what reaches its weights, and pruned, for what follows. What lies before it
doesn't change any more and is given again. The first pass ends where the block's last weight has seen its last input,
the second where the next block begins. Of what a block gave only what is asked for is kept: where it goes straight into
the next block, and that is known, nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vlp_bench.pruning.adapter import Adapter
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.activation_cache import blocks_of, copied, with_tensors
from vlp_bench.pruning.statistics.around import Around
from vlp_bench.pruning.statistics.batches import fingerprints, tensors_in

RESTARTS = 3  # of a sweep that has let go of something; after so many it keeps everything


class ControlFlowChanged(Exception):
    """A batch runs through the model in another way than the first batch did: nothing may be left out."""


class _Done(BaseException):
    """Ends a pass; no model catches it by accident."""


class Missing(Exception):
    """What a block gave is asked for, and wasn't kept. `call`: its number among the calls of blocks."""

    def __init__(self, call: int) -> None:
        self.call = call
        super().__init__(f"what call {call} of a block gave is not kept")


class Gone(Tensor):
    """Stands for a tensor that isn't kept: it has a shape, a type and a device; who wants more meets `Missing`."""

    call: int

    @staticmethod
    def of(tensor: Tensor, call: int) -> Gone:
        gone = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            Gone, tensor.shape, strides=tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
        gone.call = call
        return gone

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise Missing(next(leaf.call for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Gone)))


@dataclass(frozen=True)
class Tape:
    """What the first calls of blocks gave for one part of a batch, and how often each call read which layer."""

    outputs: list[Any] = field(default_factory=list)
    reads: list[Counter[str]] = field(default_factory=list)

    def given(self, call: int) -> Any:
        """What a call gave, for the caller to keep."""
        return with_tensors(self.outputs[call], lambda tensor: tensor if isinstance(tensor, Gone) else tensor.clone())

    def let_go(self, call: int) -> None:
        """Keeps no more than the form of what a call gave."""
        self.outputs[call] = with_tensors(self.outputs[call], lambda tensor: Gone.of(tensor, call))

    @property
    def read(self) -> Counter[str]:
        """How often its calls read each layer."""
        return sum(self.reads, Counter[str]())


class Resuming(Around):
    """An adapter whose `encode` resumes; all else is the given adapter's.

    Args:
        adapter: answers for the model.
        model: its weights may change between passes, but only those of layers that were looked at before.
        layers: all prunable layers.
        keeps_all: what blocks give is kept for all of them, for all batches.
    """

    def __init__(
        self, adapter: Adapter, model: nn.Module, layers: Mapping[str, Layer], *, keeps_all: bool = False
    ) -> None:
        super().__init__(adapter)
        self._layers, self._keeps_all = layers, keeps_all
        self._kept: set[int] = set()  # calls whose outputs something else than the next block has asked for
        self._called = set[nn.Module]()  # blocks, by the first batch
        self._resume([b for b in blocks_of(model, layers.values()) if not isinstance(b, nn.MultiheadAttention)])
        self._wanted: list[str] = []
        self._solved: set[str] = set()
        self._expected: list[Counter[str]] = []  # readings of every layer, by part of the first batch
        self._tapes: list[Tape] = []
        self._part = 0
        self._numbers: list[list[bytes]] = []  # what the first pass was shown, by part
        self._may_stop, self._outputs, self._finishes = False, False, False
        self.calls = 0  # of blocks that were run in earnest, after the first batch's

    def _resume(self, blocks: list[nn.Module]) -> None:
        """From now on what these give is kept."""
        self._blocks = blocks
        owner = {module: block for block in blocks for module in block.modules()}
        self._inside: dict[nn.Module, set[str]] = {block: set() for block in blocks}
        # Which layers a module reads, by the block around it. One that reads several reads them at once.
        self._readers: dict[nn.Module | None, dict[nn.Module, list[str]]] = {}
        for name, layer in self._layers.items():
            for reader in layer.readers:
                block = owner.get(reader.module)
                around = None if block is reader.module else block  # whose own hooks come before its forward
                self._readers.setdefault(around, {}).setdefault(reader.module, []).append(name)
                if block is not None:
                    self._inside[block].add(name)

    @contextmanager
    def exploring(self) -> Iterator[None]:
        """Whole passes, to learn how often the parts of a batch read each layer."""
        self._expected = []
        self._called.clear()
        yield
        self.calls = 0

    def leaves_uncalled(self) -> bool:
        """Takes blocks of which the model called the parts alone for none; true: there were such, explore again."""
        called = [block for block in self._blocks if block in self._called]
        found = len(called) < len(self._blocks)
        if found:
            self._resume(called)
        return found

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

    def look_at(self, wanted: Iterable[str]) -> None:
        """The passes that follow are for the inputs of these layers; those of earlier ones have their last values."""
        self._solved.update(self._wanted)
        self._wanted, self._finishes = list(wanted), False
        self._may_stop = len(self._solved) + len(self._wanted) < len(self._layers)  # the last looks for the unforeseen

    def finish(self, solved: Iterable[str]) -> None:
        """The pass that follows runs these layers, which have their last values, for what comes after them."""
        self._wanted = list(solved)
        self._solved.update(self._wanted)
        self._finishes = True

    def again(self, missing: Missing) -> None:
        """Forgets what blocks gave: the layers are finished anew, one block after the other, and this one is kept."""
        self._kept.add(missing.call)
        self._keeps_all = self._keeps_all or len(self._kept) >= RESTARTS
        self._tapes.clear()
        self._solved.clear()
        self._wanted = []

    def is_over(self, names: Iterable[str]) -> bool:
        """Whether no pass reads these layers again: all their readings are in what blocks gave."""
        expected = [self._expected[i % len(self._expected)] for i in range(len(self._tapes))]
        pairs = [(tape.read, wanted) for tape, wanted in zip(self._tapes, expected, strict=True)]
        return all(read[name] == wanted[name] for name in names for read, wanted in pairs)

    def shown(self, part: Any, batch: int) -> None:
        """ValueError for other words, masks or classes than the first pass was shown: what blocks gave is of those.

        Pixels may be drawn anew; those of the first pass count.
        """
        if not self._wanted:
            return
        numbers = fingerprints([tensor for tensor in tensors_in(part) if not tensor.is_floating_point()])
        if self._part == len(self._numbers):
            self._numbers.append(numbers)
        if numbers != self._numbers[self._part]:
            raise ValueError(
                f"calibration batch {batch} is another than in the first pass, and pruning block by block needs "
                "the same batches in the same order in every pass: pass list(batches), or a DataLoader that does not "
                "shuffle"
            )

    def encode(self, model: nn.Module, batch: Any) -> None:
        """The given adapter's, as far as it must be run.

        Raises:
            ControlFlowChanged: a layer is read more often than in the first batch.
            Missing: see there; `again` mends it.
        """
        if not self._wanted:
            run = _Run(self, Tape(), Counter())
            run.through(model, batch)
            self._expected.append(run.seen)
            return
        if self._part == len(self._tapes):
            self._tapes.append(Tape())
        expected = self._expected[self._part % len(self._expected)]
        if any(expected[name] for name in self._wanted) or not (self._may_stop or self._finishes):
            _Run(self, self._tapes[self._part], expected).through(model, batch)
        self._part += 1

    def lets_go_of(self, call: int) -> bool:
        """Of what goes straight into the next block."""
        return not self._keeps_all and call not in self._kept

    def stops_before(self, block: nn.Module) -> bool:
        """A pass that finishes layers ends where others begin."""
        return self._finishes and not self._inside[block] <= self._solved


class _Run:
    """One part of one batch in one pass."""

    def __init__(self, plan: Resuming, tape: Tape, expected: Counter[str]) -> None:
        self.plan, self.tape, self.expected = plan, tape, expected
        self.seen: Counter[str] = Counter()
        self.calls = 0
        self.latest: list[Tensor] = []  # what the call before gave
        self.final = bool(plan._wanted)  # whether all that was read so far has its last values

    def through(self, model: nn.Module, batch: Any) -> None:
        with ExitStack() as undo:
            self._watch(None, undo)
            for block in self.plan._blocks:
                undo.callback(block.__dict__.update, {k: v for k, v in vars(block).items() if k == "forward"})
                undo.callback(block.__dict__.pop, "forward", None)
                block.forward = self._forward(block, block.forward)
            with suppress(_Done):
                self.plan.answers.encode(model, batch)

    def _watch(self, block: nn.Module | None, undo: ExitStack) -> None:
        """Sees the readings of a block's layers, or of those in none."""
        for module, names in self.plan._readers.get(block, {}).items():
            if self.plan._layers[names[0]].stack is not None:  # what its slices read is seen while the module runs
                undo.callback(module.register_forward_pre_hook(self._before(names)).remove)
                undo.callback(module.register_forward_hook(self._reading(names)).remove)
            else:
                undo.callback(module.register_forward_pre_hook(self._reading(names)).remove)

    def _before(self, names: list[str]) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.final = self.final and (not self.expected or self.plan._solved.issuperset(names))

        return hook

    def _reading(self, names: list[str]) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            over = self.plan._outputs and self._has_read_all()
            self.seen.update(names)
            if not self.expected:
                return
            for name in self.plan._solved.intersection(names):
                if self.seen[name] > self.expected[name]:
                    raise ControlFlowChanged(name)
            if self.plan._solved.issuperset(names):
                return
            if self.plan._finishes:
                raise _Done
            self.final = False
            if self.plan._may_stop and (over or (not self.plan._outputs and self._has_read_all())):
                raise _Done

        return hook

    def _has_read_all(self) -> bool:
        return all(0 < self.expected[own] <= self.seen[own] for own in self.plan._wanted)

    def _forward(self, block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def resumed(*args: Any, **kwargs: Any) -> Any:
            number = self.calls
            self.calls += 1
            self.plan._called.add(block)
            if number < len(self.tape.outputs):
                self.seen.update(self.tape.reads[number])
                output = self.tape.given(number)
            elif self.plan.stops_before(block):
                raise _Done
            else:
                output = self._run(number, block, forward, args, kwargs)
            self.latest = _tensors(output)
            return output

        return resumed

    def _run(self, number: int, block: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """In earnest; what it gives is kept if it is the last of its kind."""
        self.plan.calls += 1
        before = self.seen.copy()
        with ExitStack() as undo:
            self._watch(block, undo)
            output = forward(*args, **kwargs)
        if self.final:
            given = {id(tensor) for tensor in _tensors((args, kwargs))}
            if number and self.plan.lets_go_of(number - 1) and any(id(tensor) in given for tensor in self.latest):
                self.tape.let_go(number - 1)
            self.tape.outputs.append(copied(output))
            self.tape.reads.append(self.seen - before)
        return output


def _tensors(item: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(item) if isinstance(leaf, Tensor)]
