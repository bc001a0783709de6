"""The losses of X-VLM, some of which BLIP shares, as pure functions of features, all in float32 whatever autocast says.

Source: Zeng et al., "Multi-Grained Vision Language Pre-Training" (X-VLM, ICML 2022), section 3, and its released code.
Shape legend: b pairs, e embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity(images: Tensor, texts: Tensor, temp: Tensor) -> Tensor:
    """(bi, e), (bt, e) normalised features -> (bi, bt) cosine similarity divided by the temperature, float32."""
    with torch.autocast(images.device.type, enabled=False):
        return images.float() @ texts.float().T / temp.float()


def same_image(b: int, idx: Tensor | None, device: torch.device) -> Tensor:
    """(b, b) bool: which pairs show the same image. Without identities (b,), only each pair itself."""
    if idx is None:
        return torch.eye(b, dtype=torch.bool, device=device)
    return idx.view(-1, 1) == idx.view(1, -1)


def contrastive(images: Tensor, texts: Tensor, temp: Tensor, idx: Tensor | None = None) -> Tensor:
    """Image-text contrastive loss (ITC): mean of both directions' cross entropy.

    images, texts: (b, e) normalised, of all processes (`processes.gather`). With identities `idx` (b,), all pairs of
    one image share the target evenly.
    """
    logits = similarity(images, texts, temp)
    positive = same_image(len(images), idx, images.device).float()
    target = positive / positive.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def corners(boxes: Tensor) -> Tensor:
    """(b, 4) centre x, centre y, width, height -> left, top, right, bottom."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def area(boxes: Tensor) -> Tensor:
    """(b, 4) corners -> (b,) area; 0 where right < left or bottom < top."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """(b, 4) corners each -> (b,) generalised intersection over union in -1..1 (Rezatofighi et al., 2019)."""
    inner = area(torch.cat([torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])], dim=1))
    outer = area(torch.cat([torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])], dim=1))
    union = area(a) + area(b) - inner
    tiny = torch.finfo(a.dtype).tiny
    return inner / union.clamp(min=tiny) - (outer - union) / outer.clamp(min=tiny)


def box_losses(predicted: Tensor, target: Tensor, is_image: Tensor | None = None) -> dict[str, Tensor]:
    """L1 and generalised-IoU loss of (b, 4) boxes (centre x, centre y, width, height in 0..1), per box that counts.

    Rows with `is_image` (b,) = 1 describe the whole image and are dropped; with none left both losses are 0.
    """
    predicted, target = predicted.float(), target.float()
    counts = torch.ones(len(target), device=target.device) if is_image is None else 1.0 - is_image.float()
    boxes = counts.sum().clamp(min=1)
    l1 = F.l1_loss(predicted, target, reduction="none").sum(1)
    giou = 1 - generalized_iou(corners(predicted), corners(target))
    return {"bbox": (l1 * counts).sum() / boxes, "giou": (giou * counts).sum() / boxes}
