"""Which tokens of a batch are padding, as far as the batch itself says so beyond doubt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

MASK = "attention_mask"
CURE = "vlp_bench.TransformersAdapter(model), or an adapter of your own with token_mask(), says which tokens count"


def padding_mask(batch: Any) -> Tensor | None:
    """(rows, tokens) bool, true where there is a token, of a mapping that has an `attention_mask` of zeros and ones."""
    mask = batch.get(MASK) if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not bool(((mask == 0) | (mask == 1)).all()):
        return None
    return None if bool(mask.all()) else mask != 0


def doubt(batch: Mapping[str, Any], encoder_decoder: bool) -> str | None:
    """Why it can't be known which layers read the tokens of `attention_mask`; None: what has their shape is theirs."""
    shape = tuple(batch[MASK].shape)
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    words = [name for name in ("input_ids", "inputs_embeds") if name in tensors]
    if not any(tuple(tensors[name].shape[:2]) == shape for name in words):
        return f"no input_ids of shape {shape} beside it"
    others = [name for name, value in tensors.items() if value.ndim > 2 and name not in words]
    if others:
        return f"{others[0]} makes tokens too"
    decoded = [name for name in ("labels", "decoder_input_ids") if encoder_decoder and name in tensors]
    if any(tuple(tensors[name].shape[:2]) == shape for name in decoded):
        return f"{decoded[0]} of a decoder has the same shape"
    return None
