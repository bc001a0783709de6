"""Runs a model again without computing again what cannot have changed: the blocks before a perturbed weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vlp_bench.pruning.layers import Layer


class Replay:
    """Remembers what every block gave for one batch, and gives it again.

    Exact as long as the model is a function of its inputs and weights; `cuts` says for each layer how many calls of
    blocks end before the first reader of its weight is called: those can't see a change of it.

    Args:
        model: any module.
        layers: the prunable layers; a block is the innermost module that holds all layers of one place.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self.layers = layers
        self.blocks = blocks_of(model, layers.values())
        self.cuts: dict[str, int] = {}
        self.calls = 0  # of blocks that were run in earnest
        self.whole = 0  # calls of blocks in one run of the model, the last that was recorded
        self._outputs: list[Any] = []
        self._places: dict[nn.Module, list[int]] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Remembers the calls made inside."""
        self._outputs, self._places, self.cuts = [], {block: [] for block in self.blocks}, {}
        handles = [block.register_forward_hook(self._remember) for block in self.blocks]
        for name, layer in self.layers.items():
            handles += [reader.module.register_forward_pre_hook(self._mark(name)) for reader in layer.readers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.whole = len(self._outputs)

    @contextmanager
    def skipping(self, cut: int) -> Iterator[None]:
        """Gives again, in the one run of the model inside, what the first `cut` calls of blocks gave."""
        seen = dict.fromkeys(self.blocks, 0)
        try:
            for block in self.blocks:
                block.forward = self._forward(block, block.forward, seen, cut)
            yield
        finally:
            for block in self.blocks:
                block.__dict__.pop("forward", None)

    def _remember(self, block: nn.Module, args: Any, output: Any) -> None:
        self._places[block].append(len(self._outputs))
        self._outputs.append(copied(output))
        self.calls += 1

    def _mark(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self.cuts.setdefault(name, len(self._outputs))

        return hook

    def _forward(self, block: nn.Module, forward: Callable[..., Any], seen: dict[nn.Module, int], cut: int) -> Any:
        def replayed(*args: Any, **kwargs: Any) -> Any:
            number, places = seen[block], self._places[block]
            seen[block] += 1
            if number < len(places) and places[number] < cut:
                return copied(self._outputs[places[number]])
            self.calls += 1
            return forward(*args, **kwargs)

        return replayed


def blocks_of(model: nn.Module, layers: Iterable[Layer]) -> list[nn.Module]:
    """The modules that hold all layers of one place, without those that hold another of them."""
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for layer in layers:
        groups.setdefault((layer.place.modality, layer.place.block), []).append(layer.name.split(".")[:-1])
    paths = {".".join(_shared(own)) for own in groups.values()}
    modules = dict(model.named_modules())
    return [
        modules[path]
        for path in sorted(paths)
        if path and "forward" not in modules[path].__dict__ and not any(o.startswith(f"{path}.") for o in paths)
    ]


def _shared(paths: list[list[str]]) -> list[str]:
    shared = paths[0]
    for path in paths[1:]:
        shared = shared[: _first_difference(shared, path)]
    return shared


def _first_difference(a: list[str], b: list[str]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def copied(output: Any) -> Any:
    """A copy of every tensor: whoever gets the output may change it in place."""
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*map(copied, output))
    if isinstance(output, list | tuple):
        return type(output)(map(copied, output))
    return output
