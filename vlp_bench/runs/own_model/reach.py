"""Which layers the calibration data do not reach: they stay dense, and it is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vlp_bench.models.foreign.adapter import TransformersAdapter
from vlp_bench.pruning.layers import Layer, find_layers
from vlp_bench.pruning.statistics.batches import moved_to

UNCALLED = "no calibration batch reaches it"
UNLEARNT = "the loss gives it no gradient"


def unreached(model: nn.Module, adapter: TransformersAdapter, batches: Iterable[Any], reads: str) -> Mapping[str, str]:
    """Layers that a pruner would refuse: name -> why.

    Args:
        model: in evaluation mode; stays as it is.
        adapter: its answers.
        batches: gone through until every layer has been reached.
        reads: what the pruner reads, see `Needs.reads`.
    """
    if reads == "weights":
        return {}
    layers = find_layers(model, adapter)
    if reads == "activations":
        return dict.fromkeys(_uncalled(model, adapter, batches, layers), UNCALLED)
    return dict.fromkeys(_unlearnt(model, adapter, batches, layers), UNLEARNT)


def _uncalled(
    model: nn.Module, adapter: TransformersAdapter, batches: Iterable[Any], layers: Mapping[str, Layer]
) -> set[str]:
    missing = set(layers)
    with _watching(layers, missing):
        for batch in batches:
            adapter.encode(model, moved_to(batch, _device(layers)))
            if not missing:
                break
    return missing


@contextmanager
def _watching(layers: Mapping[str, Layer], missing: set[str]) -> Iterator[None]:
    """Takes the name of a layer out of `missing` when one of its readers is called."""

    def taker(name: str) -> Any:
        return lambda *_: missing.discard(name)

    readers = [(name, reader.module) for name, layer in layers.items() for reader in layer.readers]
    handles = [module.register_forward_pre_hook(taker(name)) for name, module in readers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unlearnt(
    model: nn.Module, adapter: TransformersAdapter, batches: Iterable[Any], layers: Mapping[str, Layer]
) -> set[str]:
    missing = set(layers)
    for batch in batches:
        names: Sequence[str] = sorted(missing)
        with torch.enable_grad():
            loss = adapter.loss(model, moved_to(batch, _device(layers)))
            gradients = torch.autograd.grad(loss, [layers[name].weight for name in names], allow_unused=True)
        missing -= {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        if not missing:
            break
    return missing


def _device(layers: Mapping[str, Layer]) -> torch.device:
    return next(iter(layers.values())).weight.device
