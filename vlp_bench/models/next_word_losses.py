"""Losses of predicting the next word, with the two kinds of label smoothing the papers' code uses.

Shape legend: b texts, t tokens, v vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
SMOOTHINGS = ("shared", "others")


def targets(ids: Tensor, pad_id: int, prompt: int = 0) -> Tensor:
    """(b, t) ids -> labels: padding and the first `prompt` tokens are ignored."""
    labels = ids.masked_fill(ids == pad_id, IGNORED)
    labels[:, :prompt] = IGNORED
    return labels


def next_word_losses(logits: Tensor, labels: Tensor, smoothing: float = 0.0, *, kind: str = "shared") -> Tensor:
    """(b, t, v) logits and (b, t) labels -> (b, t - 1) loss of predicting each next word, 0 where it is ignored.

    smoothing: e. kind: the true word's target is 1 - e + e/v (`shared`: torch's, BLIP) or 1 - e (`others`: X-VLM's
    own class); every other word's is e/v.
    """
    if kind not in SMOOTHINGS:
        raise ValueError(f"kind of label smoothing must be one of {', '.join(SMOOTHINGS)}, got {kind!r}")
    logits, labels = logits[:, :-1].float().transpose(1, 2), labels[:, 1:]
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
    if kind == "shared" or smoothing == 0:
        return losses
    own = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    return losses - smoothing / logits.shape[1] * own


def next_word_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0, *, kind: str = "shared") -> Tensor:
    """Mean of `next_word_losses` over the words that count; 0 (still differentiable) if there are none."""
    losses = next_word_losses(logits, labels, smoothing, kind=kind)
    return losses.sum() / (labels[:, 1:] != IGNORED).sum().clamp(min=1)


def replace_first(ids: Tensor, token: int) -> Tensor:
    """(b, t) ids with another first token: [CLS] -> [ENC] or [DEC]."""
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], dim=1)
