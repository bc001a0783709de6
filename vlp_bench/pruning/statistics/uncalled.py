"""Weights that a model reads without calling the module they are of: nobody is told what they are multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from vlp_bench.pruning.layers import Layer

READ_UNCALLED = "its weight is read without calling its module"
ABOUT = ("__get__", "size")  # functions that ask a tensor for its type, its shape and the like


def read_uncalled(layers: Iterable[Layer], run: Callable[[], None]) -> list[str]:
    """Of some layers those whose weight is read while `run` runs, and none of whose modules is called."""
    layers, called = list(layers), set[str]()
    with ExitStack() as undo:
        for layer in layers:
            for reader in layer.readers:
                hook = lambda module, args, name=layer.name: called.add(name)  # noqa: E731
                undo.callback(reader.module.register_forward_pre_hook(hook).remove)
        reads = undo.enter_context(_Reads(layers))
        run()
    return [layer.name for layer in layers if layer.name in reads.seen - called]


class _Reads(TorchFunctionMode):
    """Notes which weights functions of torch are given, as they are or as a view."""

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self._layers = layers
        self.seen = set[str]()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in ABOUT:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.seen.update(layer.name for layer in self._layers if any(_is(own, layer.weight) for own in given))
        return func(*args, **(kwargs or {}))


def _is(given: Tensor, weight: Tensor) -> bool:
    return given is weight or (given.numel() == weight.numel() and given.data_ptr() == weight.data_ptr())
