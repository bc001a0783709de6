"""Two ways to pay for a training step, neither of which changes what is computed: compiled blocks, recomputed blocks.

Both work on a model's transformer layers in place: no module is replaced, and no parameter gets another name. They come
after pruning, whose statistics are taken by hooks inside the layers; a model prepared so is not to be copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache

VARIANTS = 128
"""How often the code of a layer may be compiled: for every kind of layer, each with masks and without, in training and
evaluation, of batches of fixed and of changing size, and with its own rate of drop-path."""


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer layers: what lies in the outermost lists of modules. ValueError for a model without."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    outermost = [m for name, m in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    found = [block for each in outermost for block in each]
    if not found:
        raise ValueError(f"{type(model).__name__} has no list of layers (nn.ModuleList) to compile or recompute")
    return found


def compile_blocks(found: list[nn.Module], **settings: Any) -> None:
    """Compile each block by itself: equal blocks share one compilation, so it takes seconds, not minutes.

    The compiler may add up in another order: losses agree to 1e-5 in float32. It counts all kinds of layers as one
    function, and past 8 compilations would run what comes next uncompiled: a two-tower model needs more.
    """
    limits = torch._dynamo.config
    limits.cache_size_limit = max(limits.cache_size_limit, VARIANTS)
    for block in found:
        block.compile(**settings)


def recompute_blocks(found: list[nn.Module]) -> None:
    """Keep only what enters a block in a training step, and run it again for its gradients (gradient checkpointing).

    Memory falls by most of the activations, time grows by about a third; losses and gradients stay as they are, dropout
    included. Evaluation is left alone, and so are steps that fill a cache of keys and values.
    """
    for block in found:
        block.forward = _recomputed(block, block.forward)  # pyright: ignore[reportAttributeAccessIssue]


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        fills = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
        if fills or not block.training or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def prepare(model: nn.Module, *, compiled: bool = False, recomputed: bool = False) -> None:
    """What conf's `compile` and `recompute` ask for."""
    found = blocks(model) if compiled or recomputed else []
    if recomputed:
        recompute_blocks(found)
    if compiled:
        compile_blocks(found)
