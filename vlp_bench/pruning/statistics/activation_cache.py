"""Runs a model again without computing again what cannot have changed: blocks that meet what they met before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from vlp_bench.models.offloading import runs_as_written
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.fingerprints import leaves, matches

Forward = Callable[..., Any]
WRITTEN = object()
"""Stands for a tensor that waits in a file."""


class ActivationCache:
    """Remembers what every block met and gave in one run of a model, and gives it again.

    A call is given again if the block has no changed weight and either meets, bit by bit, the arguments of the recorded
    call, or comes before any call of a block that has one. Exact as long as blocks are functions of their arguments and
    weights. Of arguments only checksums are kept; outputs take as much as one run's blocks give.

    Args:
        model: any module.
        layers: the prunable layers; a block is the module that their place is named after (see `blocks_of`).
        folder: where outputs wait; None: in memory, on their device.
    """

    def __init__(self, model: nn.Module, layers: Iterable[Layer], folder: Path | None = None) -> None:
        self.blocks = blocks_of(model, layers)
        self.folder = folder
        self.calls = 0  # of blocks that were run in earnest
        self.whole = 0  # calls of blocks in one run of the model, the last that was recorded
        self._known: dict[nn.Module, list[tuple[list[Any], Any]]] = {}  # per block what its calls met and gave
        self._owner = {module: block for block in self.blocks for module in block.modules()}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Remembers the calls made inside."""
        self.forget()
        self.whole = 0
        with self._instead(self._recorded):
            yield

    @contextmanager
    def replaying(self, changed: Layer | None = None) -> Iterator[None]:
        """Gives again, in the one run of the model inside, what the changed layer can't have changed."""
        holders = {self._owner.get(reader.module) for reader in changed.readers} if changed else set()
        called = {block if block is not None and self._known[block] else None for block in holders}
        with self._instead(_Run(self, called).forward):
            yield

    def forget(self) -> None:
        """Every block is run from now on."""
        self._known = {block: [] for block in self.blocks}

    @contextmanager
    def _instead(self, wrap: Callable[[nn.Module, Forward], Forward]) -> Iterator[None]:
        with ExitStack() as undo:
            for block in self.blocks:
                undo.callback(block.__dict__.update, {k: v for k, v in vars(block).items() if k == "forward"})
                undo.callback(block.__dict__.pop, "forward", None)
                block.forward = wrap(block, block.forward)
            yield

    def _recorded(self, block: nn.Module, forward: Forward) -> Forward:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            met = list(leaves((args, kwargs)))
            output = self.run(forward, args, kwargs)
            self._known[block].append((met, self._stored(output)))
            self.whole += 1
            return output

        return recorded

    def run(self, forward: Forward, args: Any, kwargs: Any) -> Any:
        """A call in earnest."""
        self.calls += 1
        return forward(*args, **kwargs)

    def known(self, block: nn.Module, number: int) -> tuple[list[Any], Any] | None:
        """What the block's call of that number met, and where what it gave is stored."""
        calls = self._known[block]
        return calls[number] if number < len(calls) else None

    def _stored(self, output: Any) -> Any:
        """A copy of an output; with a folder its tensors are written there, and what holds them stays in memory."""
        if self.folder is None:
            return copied(output)
        items, frame = tree_flatten(output)
        file = self.folder / f"{self.whole}.pt"
        tensors = [item.clone() for item in items if isinstance(item, Tensor)]  # a view would be saved with all of it
        torch.save(tensors, file)
        return file, [WRITTEN if isinstance(item, Tensor) else item for item in items], frame

    def restored(self, stored: Any) -> Any:
        """An output, for the caller to keep."""
        if self.folder is None:
            return copied(stored)
        file, items, frame = stored
        tensors = iter(torch.load(file, weights_only=True))
        return tree_unflatten([next(tensors) if item is WRITTEN else item for item in items], frame)


class _Run:
    """One run of the model with some calls given again."""

    def __init__(self, replay: ActivationCache, holders: set[nn.Module | None]) -> None:
        self.replay, self.holders = replay, holders
        self.seen = dict.fromkeys(replay.blocks, 0)
        self.changed = None in holders  # whether anything may differ by now: at once if a reader is in no block

    def forward(self, block: nn.Module, forward: Forward) -> Forward:
        def replayed(*args: Any, **kwargs: Any) -> Any:
            known = self.replay.known(block, self.seen[block])
            self.seen[block] += 1
            if known is not None and block not in self.holders:
                met, stored = known
                if not self.changed or matches((args, kwargs), met):
                    return self.replay.restored(stored)
            self.changed = True
            return self.replay.run(forward, args, kwargs)

        return replayed


def blocks_of(model: nn.Module, layers: Iterable[Layer]) -> list[nn.Module]:
    """The modules that places are named after, else those that hold all layers of one; none that holds another.

    None that can't be called, either: of a container the model calls what is in it.
    """
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for layer in layers:
        groups.setdefault((layer.place.modality, layer.place.block), []).append(layer.name.split(".")[:-1])
    modules = dict(model.named_modules())
    paths = {_path(block, ".".join(_shared(own)), modules) for (_, block), own in groups.items()}
    return [
        modules[path]
        for path in sorted(paths)
        if path and is_called(modules[path]) and not any(o.startswith(f"{path}.") for o in paths)
    ]


def is_called(module: nn.Module) -> bool:
    """Whether a module has a forward, and that is its own."""
    return type(module).forward is not nn.Module.forward and runs_as_written(module)


def _path(block: str, innermost: str, modules: Mapping[str, nn.Module]) -> str:
    """A decoder's layer is one, though the weights it doesn't share may all be in its attention."""
    called = block in modules and type(modules[block]).forward is not nn.Module.forward
    return block if called and f"{innermost}.".startswith(f"{block}.") else innermost


def _shared(paths: list[list[str]]) -> list[str]:
    shared = paths[0]
    for path in paths[1:]:
        shared = shared[: _first_difference(shared, path)]
    return shared


def _first_difference(a: list[str], b: list[str]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def copied(output: Any) -> Any:
    """A copy of every tensor: whoever gets the output may change it in place."""
    return with_tensors(output, Tensor.clone)


def with_tensors(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output of a block with every tensor in it, or in its tuples and lists, changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(with_tensors(item, change) for item in output))
    if isinstance(output, list | tuple):
        return type(output)(with_tensors(item, change) for item in output)
    return output
