"""Images and texts side by side: embeddings of models with a tower each (CLIP, SigLIP and their kind)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel


def compares(model: PreTrainedModel) -> bool:
    """Whether images and texts are embedded apart and compared."""
    return hasattr(model, "get_image_features") and hasattr(model, "get_text_features")


@torch.inference_mode()
def embedded(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """(b, e) float32 of length 1: embeddings of a batch of images (it has `pixel_values`), or of texts."""
    owner: Any = model
    embed = owner.get_image_features if "pixel_values" in batch else owner.get_text_features
    found = embed(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    return F.normalize(getattr(found, "pooler_output", found).float(), dim=-1)
