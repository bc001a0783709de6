"""What tokens pay attention to, seen where it is computed: in torch's attention, or a softmax of four dimensions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class AttentionWatch(TorchFunctionMode):
    """Collects attention (rows, queries, keys), the mean over heads, while it is entered.

    That of `nn.MultiheadAttention` isn't seen.

    Attributes:
        seen: in order; whoever enters empties it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        if func is F.scaled_dot_product_attention:
            self.seen.append(_attention(*args, **given).mean(1))
        elif func in SOFTMAX and result.ndim == 4:
            self.seen.append(result.mean(1))
        return result


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(rows, heads, queries, keys): the weights that `scaled_dot_product_attention` gives the values."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        logits = logits.masked_fill(torch.ones_like(logits[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return logits.softmax(-1)
