"""Gradients of the prunable weights alone, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench.pruning.layers import Layer

Sizes = dict[str, dict[str, float]]  # per layer sums of |g| ("gradient"), |w·g| ("magnitude") and (w·g)² ("squared")
CACHED = 1 << 16  # floats that a processor works on in one go


@contextmanager
def accumulate_gradients(model: nn.Module, layers: Mapping[str, Layer], sums: dict[str, Tensor]) -> Iterator[None]:
    """Gradients of the prunable weights alone, added up in float32 in `sums` and nowhere else."""
    parameters = list(model.parameters())
    before = [(p, p.requires_grad, p.grad) for p in parameters]
    handles = []
    try:
        for p in parameters:
            p.requires_grad_(False)
            p.grad = None
        for name, layer in layers.items():
            layer.weight.requires_grad_(True)
            handles.append(layer.weight.register_post_accumulate_grad_hook(_add_to(sums, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p, required, gradient in before:
            p.requires_grad_(required)
            p.grad = gradient


def _add_to(sums: dict[str, Tensor], name: str) -> Any:
    def hook(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        sums[name] = sums[name].add_(gradient) if name in sums else gradient.float()

    return hook


def add_sizes(layers: Mapping[str, Layer], gradients: Mapping[str, Tensor], sizes: Sizes) -> None:
    """Adds up the sizes of one batch's gradient."""
    for name, gradient in gradients.items():
        found = _sizes(gradient, layers[name].weight.detach()).tolist()
        for what, size in zip(("gradient", "magnitude", "squared"), found, strict=True):
            sizes[name][what] += size


def _sizes(gradient: Tensor, weight: Tensor) -> Tensor:
    """(3,) float64: Σ|g|, Σ|w·g| and Σ(w·g)², in pieces that stay in a processor's cache."""
    length = CACHED if gradient.device.type == "cpu" else gradient.numel()
    total = torch.zeros(3, dtype=torch.float64, device=gradient.device)
    for g, w in zip(gradient.reshape(-1).split(length), weight.reshape(-1).split(length), strict=True):
        flowing = g * w
        total += torch.stack([g.abs().sum(), flowing.abs().sum(), flowing.dot(flowing)])
    return total


def move(gradients: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    """Adds the gradients of one batch to the sums and forgets them."""
    for name in list(gradients):
        gradient = gradients.pop(name)
        sums[name] = sums[name].add_(gradient) if name in sums else gradient
