"""DINO's vision transformer with a classifier on [CLS].

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021); MULTIFLOW (Farina et
al., CVPR 2024) prunes its ViT-B/16 and fine-tunes it on classification.
Shape legend: m images, n patches, d width, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench.batch import Batch, Place
from vlp_bench.models.vit import EPS, VisionTransformer
from vlp_bench.models.xvlm.towers import ATTENTIONS, STEM_STRIDE, STEMS, inner_width

DENSE = "classifier."  # never pruned


@dataclass(frozen=True)
class DINOConfig:
    """Sizes of a DINO; the defaults are the paper's ViT-B/16 with ImageNet's 1,000 classes.

    image_size, patch_size: pixels. mlp_ratio: inner width of the feed-forward networks over the width, any number
    whose product is whole. drop_path: of the last layer in training. stem: as of `XVLMConfig`. vision_eps: LayerNorm's;
    1e-6 is that of DINO's own code, the hub's copies of its weights say 1e-12.
    """

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    mlp_ratio: float = 4
    classes: int = 1000
    drop_path: float = 0.0
    stem: str = "patch"
    vision_eps: float = EPS

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(field.default) is int:
                self._check(getattr(self, field.name) > 0, field.name, "at least 1")
        inner_width(self.mlp_ratio, self.vision_width)
        self._check(self.vision_eps > 0, "vision_eps", "above 0")
        self._check(0 <= self.drop_path < 1, "drop_path", "at least 0 and below 1")
        self._check(self.stem in STEMS, "stem", f"one of {', '.join(STEMS)}")
        self._check(self.stem == "patch" or self.patch_size == STEM_STRIDE, "patch_size", "8 with stem=conv")
        self._check(self.image_size % self.patch_size == 0, "image_size", f"a multiple of patch_size {self.patch_size}")
        self._check(self.vision_width % self.vision_heads == 0, "vision_width", "a multiple of vision_heads")

    def _check(self, holds: bool, field: str, allowed: str) -> None:
        if not holds:
            raise ValueError(f"DINO config: {field} must be {allowed}, got {getattr(self, field)}")

    @property
    def tokens(self) -> int:
        """Image tokens: the patches and [CLS]."""
        return (self.image_size // self.patch_size) ** 2 + 1


class DINO(nn.Module):
    """The model. Its classifier starts anew from seed 0, as no released file has one; see `new_classifier`."""

    def __init__(self, config: DINOConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {attention!r}")
        self.config = config
        self.attention = attention
        self.vision_model = vision_transformer(config, attention)
        self.classifier = nn.Linear(config.vision_width, config.classes)
        self.new_classifier(config.classes)

    @property
    def adapter(self) -> DINOAdapter:
        """What pruning asks of this model."""
        return DINOAdapter()

    def resize_images(self, image_size: int) -> None:
        """Take images of another size from now on (pixels): the table of positions is resized bicubically."""
        self.config = replace(self.config, image_size=image_size)
        self.vision_model.embeddings.resize(image_size, self.config.tokens)

    @torch.no_grad()
    def new_classifier(self, classes: int, seed: int = 0) -> None:
        """Classify into so many classes from now on: weights drawn with `seed` (normal, 0.02), no bias yet."""
        self.config = replace(self.config, classes=classes)
        device = self.classifier.weight.device
        drawn = torch.randn(
            classes, self.config.vision_width, generator=torch.Generator().manual_seed(seed), device="cpu"
        )
        self.classifier = nn.Linear(self.config.vision_width, classes, device=device)
        self.classifier.weight.copy_(0.02 * drawn)
        self.classifier.bias.zero_()

    def encode_image(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, 1 + n, d); row 0 is [CLS]."""
        return self.vision_model(images)

    def classify(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, c) float32 logits."""
        return self.classifier(self.encode_image(images)[:, 0]).float()

    def classification_losses(self, batch: Batch) -> dict[str, Tensor]:
        """`ce`: the cross entropy with the batch's labels, a scalar."""
        if batch.labels is None:
            raise ValueError("this batch has no labels, which the model needs here")
        return {"ce": F.cross_entropy(self.classify(batch.images), batch.labels)}


def vision_transformer(config: DINOConfig, attention: str) -> VisionTransformer:
    """DINO's backbone, with three weights for query, key and value as MULTIFLOW loads it."""
    return VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.vision_width,
        layers=config.vision_layers,
        heads=config.vision_heads,
        mlp_ratio=config.mlp_ratio,
        eps=config.vision_eps,
        attention=attention,
        drop_path=config.drop_path,
        stem=config.stem,
        fused=False,
    )


@dataclass(frozen=True)
class DINOAdapter:
    """DINO's answers to the six questions of pruning (see `vlp_bench.pruning`)."""

    def prunable(self, model: nn.Module) -> list[str]:
        """Names of all linear weights but the classifier's."""
        linear = {id(m.weight) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n + "." != DENSE}
        return [name for name, parameter in model.named_parameters() if id(parameter) in linear]

    def place(self, name: str) -> Place:
        """Vision, and the layer."""
        parts = name.split(".")
        assert parts[:3] == ["vision_model", "encoder", "layers"], name
        return Place("vision", ".".join(parts[:4]))

    def encode(self, model: DINO, batch: Batch) -> None:
        """The backbone, without gradients."""
        with torch.no_grad():
            model.encode_image(batch.images)

    def loss(self, model: DINO, batch: Batch) -> Tensor:
        """Cross entropy; before fine-tuning it is that of a classifier nobody trained, as in the released code."""
        return model.classification_losses(batch)["ce"]

    def token_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        """Every token counts."""
        return None

    def rows(self, batch: Batch) -> int:
        """Images in the batch."""
        return len(batch.images)
