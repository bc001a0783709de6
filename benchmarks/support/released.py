"""MULTIFLOW as its released code computes it, written anew from its description; the best variant of each step.

Inputs of every layer are kept for both parts of a batch, laid side by side and added to a running mean of squares; all
batches are gone through for every sparsity; thresholds come from `kthvalue`. Left out is what costs the released code
more and gives it nothing: comparing inputs with those before (`allclose`), products with masks of ones, copies of
scores.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.pruning.adapter import adapter_for

Batches = list[list[Batch]]


@torch.no_grad()
def multiflow(model: nn.Module, sparsities: list[float], batches: Batches) -> list[list[Tensor]]:
    """Masks by sparsity, by prunable layer."""
    adapter: Any = adapter_for(model)
    names = adapter.prunable(model)
    weights = {name: model.get_parameter(name).detach() for name in names}
    found = []
    for sparsity in sparsities:
        norms = _norms(model, adapter, names, batches)
        ratios = _ratios(adapter, weights, sparsity)
        found.append([_mask(weights[name], norms[name], ratios[name]) for name in names])
    return found


def _norms(model: nn.Module, adapter: Any, names: list[str], batches: Batches) -> dict[str, Tensor]:
    """(d_in,) the norm of every input of a layer: the square root of its running mean of squares."""
    history: dict[str, list[Tensor]] = defaultdict(list)
    squares: dict[str, Tensor] = {}
    seen = 0
    hooks = [_layer(model, name).register_forward_pre_hook(partial(_keep, history, name)) for name in names]
    try:
        for parts in batches:
            tokens: dict[str, list[Tensor]] = defaultdict(list)
            for part in parts:
                adapter.encode(model, part)
                for name, inputs in history.items():
                    tokens[name] += [_real(adapter, part, name, x) for x in inputs]
                history.clear()
            rows = sum(adapter.rows(part) for part in parts)
            for name, own in tokens.items():
                added = torch.cat(own).norm(dim=0) ** 2 / (seen + rows)
                squares[name] = squares[name] * (seen / (seen + rows)) + added if name in squares else added
            seen += rows
    finally:
        for hook in hooks:
            hook.remove()
    return {name: own.sqrt() for name, own in squares.items()}


def _layer(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _keep(history: dict[str, list[Tensor]], name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    history[name].append(inputs[0])


def _real(adapter: Any, batch: Batch, name: str, x: Tensor) -> Tensor:
    """(n, d_in) tokens without padding."""
    mask = adapter.token_mask(batch, name, x.shape[1])
    return x.flatten(0, 1) if mask is None else x[mask]


def _ratios(adapter: Any, weights: dict[str, Tensor], sparsity: float) -> dict[str, float]:
    """The share of each layer that goes: one threshold on |w| for every modality."""
    by_modality: dict[str, list[str]] = defaultdict(list)
    for name in weights:
        by_modality[adapter.place(name).modality].append(name)
    found: dict[str, float] = {}
    for names in by_modality.values():
        sizes = torch.cat([weights[name].abs().flatten() for name in names])
        threshold = sizes.kthvalue(int(sparsity * len(sizes))).values
        found |= {name: 1 - float((weights[name].abs() > threshold).double().mean()) for name in names}
    return found


def _mask(weight: Tensor, norm: Tensor, ratio: float) -> Tensor:
    """The information flow of every weight against the layer's own threshold."""
    size = weight.abs()
    edges = size * norm
    scores = edges.mean(1, keepdim=True) * size * edges.mean(0)
    goes = int(ratio * scores.numel())
    return scores > scores.flatten().kthvalue(goes).values if goes else torch.ones_like(scores, dtype=torch.bool)
