"""Whether a model keeps the keys and values of what it has read, which only generating reads again."""

from __future__ import annotations

from inspect import signature

from torch import nn


def no_cache(model: nn.Module) -> dict[str, bool]:
    """The argument that keeps a model from filling a cache of keys and values; empty for a model that has none.

    Left alone, a language model of transformers fills one in every forward pass: keys and values of all layers, some
    gigabytes of a large one.
    """
    generates = getattr(model, "can_generate", None)
    if callable(generates) and generates():
        return {"use_cache": False}
    try:
        takes = signature(model.forward).parameters
    except ValueError:  # a traced module tells nobody what it takes
        takes = {}
    return {"use_cache": False} if "use_cache" in takes else {}
