"""What a score gives is checked before anything is ranked by it, and the model stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp_bench.pruning import scores
from vlp_bench.pruning.checks import name_of
from vlp_bench.pruning.foreign_parts import Shown
from vlp_bench.pruning.layers import Layer, writes_of
from vlp_bench.pruning.statistics.calibration import Calibration


def score_of(score: scores.Score, layer: Layer, calibration: Calibration) -> Tensor:
    """The score of one layer, (d_out, d_in) in floating point, without NaN.

    Raises:
        ValueError: it is something else, or the score changed the weight (which then has its values back); names the
            score and the layer.
    """
    weight = layer.weight
    writes, before = writes_of(weight), None if _ours(score) else weight.detach().clone()
    try:
        found = score(layer, calibration if before is None else Shown.of(calibration))
    finally:
        changed = writes_of(weight) != writes or (before is not None and not torch.equal(weight.detach(), before))
        if changed and before is not None:
            if weight.shape != before.shape:
                weight.data = before
            weight.data.copy_(before)
    assert before is not None or not changed, f"{name_of(score)} changed {layer.name}"
    if fault := "changes the weight in place" if changed else _fault(found, layer):
        wanted = f"a floating-point tensor of shape {tuple(layer.matrix.shape)} of its own, without NaN"
        raise ValueError(f"the score {name_of(score)} {fault} for {layer.name!r}: it must return {wanted}")
    return found.detach()


def _fault(found: object, layer: Layer) -> str | None:
    if not isinstance(found, Tensor):
        return f"returns {'None' if found is None else type(found).__name__}"
    if found.layout is not torch.strided:
        return "returns a sparse tensor"
    if not found.is_floating_point():
        return f"returns {found.dtype}"
    if found.shape != layer.matrix.shape:
        return f"returns shape {tuple(found.shape)}"
    return "returns NaN" if found.sum().isnan() and found.isnan().any() else None  # the sum alone may be inf - inf


def _ours(score: object) -> bool:
    """Whether it is made of this package's scores alone, none of which changes a weight: no copy is kept of it."""
    inner = getattr(score, "keywords", {}).get("score")
    function = getattr(score, "func", score)
    return getattr(function, "__module__", None) == scores.__name__ and (inner is None or _ours(inner))
