"""Momentum copies of encoders and the queue of their features (MoCo, He et al., CVPR 2020, as ALBEF and BLIP use it).

Shape legend: b pairs of this batch, e embedding width, q length of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

Pairs = Iterable[tuple[nn.Module, nn.Module]]
"""Modules and their momentum copies."""


def ramped(alpha: float, epochs: float) -> float:
    """The weight of momentum targets after so many epochs: grows linearly over the first, then stays `alpha`."""
    return alpha * min(1.0, epochs)


@torch.no_grad()
def copy_to_momentum(pairs: Pairs) -> None:
    """The copies start over from the weights as they are; they are never trained by gradients."""
    for module, copied in pairs:
        for parameter, average in zip(module.parameters(), copied.parameters(), strict=True):
            average.copy_(parameter)
            average.requires_grad_(False)


@torch.no_grad()
def update_momentum(pairs: Pairs, momentum: float, *, inherit_zeros: bool = False) -> None:
    """Each copy becomes momentum * copy + (1 - momentum) * weight.

    inherit_zeros: where a matrix of a linear layer is exactly 0, so is its copy: a mask reaches the copies at once
    instead of fading in over hundreds of steps.
    """
    for module, copied in pairs:
        for parameter, average in zip(module.parameters(), copied.parameters(), strict=True):
            average.mul_(momentum).add_(parameter, alpha=1 - momentum)
        if inherit_zeros:
            _inherit_zeros(module, copied)


def _inherit_zeros(module: nn.Module, copied: nn.Module) -> None:
    for mine, theirs in zip(module.modules(), copied.modules(), strict=True):
        if isinstance(mine, nn.Linear):
            theirs.weight.masked_fill_(mine.weight == 0, 0.0)  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def enqueue(queue: Tensor, features: Tensor, start: int) -> int:
    """Columns of `queue` (e, q), from `start` on and round its end, become `features` (b, e), those of all processes.

    Returns where the next batch goes. Only the newest q of more than q features are kept.
    """
    features = features.detach()
    size = queue.shape[1]
    where = (torch.arange(len(features), device=queue.device) + start) % size
    queue[:, where[-size:]] = features[-size:].T.to(queue)
    return (start + len(features)) % size
