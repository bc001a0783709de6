"""Which modules map vectors linearly, and with which weights."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' `Conv1D`: a linear layer that stores its weight as (d_in, d_out)."""
    utilities = sys.modules.get("transformers.pytorch_utils")
    return utilities is not None and isinstance(module, utilities.Conv1D)


def linear_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weights with which the module itself maps vectors linearly."""
    if isinstance(module, nn.MultiheadAttention):
        packed = [module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
        return [weight for weight in packed if weight is not None]
    linear: Any = module if isinstance(module, nn.Linear) or is_conv1d(module) else None
    # a parametrized weight is computed anew by every access, and is no parameter
    return [] if linear is None or not isinstance(linear.weight, nn.Parameter) else [linear.weight]
