"""Which keys an attention may look at, as its kernel wants to be told."""

from __future__ import annotations

import torch
from torch import Tensor


def key_mask(atts: Tensor | None, attention: str) -> Tensor | None:
    """(b, k) attention over keys, 1 = visible -> (b, 1, 1, k) as the attention kernel wants it; None stays None."""
    return None if atts is None else kernel_mask(atts.bool()[:, None, None, :], attention)


def kernel_mask(visible: Tensor, attention: str) -> Tensor:
    """Bool, True = visible, as the attention kernel wants it: as it is (sdpa), or to be added to scores (eager)."""
    if attention == "sdpa":
        return visible
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, torch.finfo(torch.float32).min)
