"""Supervised pre-training of the embedded world's small ViT: which attributes appear in a scene."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from vlp_bench.models.dino import DINO
from vlp_bench.tasks.optimisation import Diverged, warmed_adamw

Scenes = tuple[Tensor, Tensor]
"""(b, 3, h, w) images and (b, k) attributes, 1 = appears."""


class AttributePretraining(pl.LightningModule):
    """Binary cross entropy of every attribute, by AdamW with warm-up and a cosine to zero at `steps`."""

    def __init__(
        self, model: DINO, *, steps: int, lr: float = 1e-3, warmup_steps: int = 50, weight_decay: float = 0.05
    ) -> None:
        super().__init__()
        if steps <= warmup_steps:
            raise ValueError(f"steps must be more than warmup_steps {warmup_steps}, got {steps}")
        self.model = model
        self.steps, self.lr, self.warmup_steps, self.weight_decay = steps, lr, warmup_steps, weight_decay

    def training_step(self, batch: Scenes, index: int) -> Tensor:
        """The mean over images and attributes."""
        images, present = batch
        loss = F.binary_cross_entropy_with_logits(self.model.classify(images), present)
        if not bool(loss.isfinite()):
            raise Diverged(f"the loss is not finite at step {self.global_step}; lower lr, now {self.lr:g}")
        self.log("loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rate set at every step."""
        optimizer, schedule = warmed_adamw(
            self.model,
            lr=self.lr,
            betas=(0.9, 0.98),
            weight_decay=self.weight_decay,
            schedule="cosine",
            warmup=self.warmup_steps / self.steps,
            total=self.steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.inference_mode()
def attribute_recall(model: DINO, batches: Sequence[Scenes], parts: dict[str, int]) -> dict[str, float]:
    """Kind of attribute -> balanced accuracy in percent: the mean over its labels of how often presence and absence
    are told. 50 is chance, whatever the share of scenes a label appears in.

    parts: kind -> how many labels it has, in the order of the labels.
    """
    predicted = torch.cat([model.classify(images) > 0 for images, _ in batches])
    true = torch.cat([present > 0 for _, present in batches]).to(predicted.device)
    right = predicted == true
    present = (right & true).sum(0) / true.sum(0).clamp(min=1)
    absent = (right & ~true).sum(0) / (~true).sum(0).clamp(min=1)
    each = (50 * (present + absent)).split(list(parts.values()))
    return {kind: values.mean().item() for kind, values in zip(parts, each, strict=True)}
