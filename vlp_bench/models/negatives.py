"""Hard negatives of image-text matching: drawn from the batch, the more alike the likelier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlp_bench.models.losses import same_image, similarity


def negative_weights(logits: Tensor, same: Tensor, uniform: float, *, eps: float = 1e-5) -> Tensor:
    """(b, b) sampling weights of negatives: softmax over the row + eps + uniform / b, and 0 for the same image."""
    weights = F.softmax(logits, dim=1) + eps + uniform / logits.shape[1]
    weights = weights.masked_fill(same, 0.0)
    if not bool(weights.any(1).all()):
        raise ValueError(
            f"a batch of {len(logits)} pairs has a pair without a negative: every caption needs another image in its "
            "batch; use a batch size of at least 2 with different images"
        )
    return weights


def draw(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(b, b) weights -> (b,) one column per row; the released code's loop over rows draws the same.

    Drawn where the generator lives, without one from torch's global one on the CPU: the same seed draws the same for
    every device.
    """
    device = torch.device("cpu") if generator is None else generator.device
    return torch.multinomial(weights.to(device), 1, generator=generator).squeeze(1).to(weights.device)


@torch.no_grad()
def hard_negatives(
    images: Tensor,
    texts: Tensor,
    temp: Tensor,
    idx: Tensor | None = None,
    *,
    uniform: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """One negative image for every text, then one negative text for every image, as two (b,) rows of indices.

    images, texts: (b, e) normalised, of all processes, which draw the same where their generators are alike. Drawn with
    probability softmax(similarity / temp), never of the same image. `uniform` is the mass of an even distribution added
    to the softmax's mass of 1: the hardest negatives alone never teach a small model that starts from nothing.
    """
    logits = similarity(images, texts, temp)
    same = same_image(len(images), idx, images.device)
    image_of_text = draw(negative_weights(logits.T, same, uniform), generator)
    text_of_image = draw(negative_weights(logits, same, uniform), generator)
    return image_of_text, text_of_image
