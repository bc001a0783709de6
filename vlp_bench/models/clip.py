"""CLIP through transformers, for zero-shot classification; XVLM's two towers answer the same questions.

Source: Radford et al., CLIP (ICML 2021); ECoFLaP (Sung et al., ICLR 2024) prunes its ViT-B/16.
Shape legend: m images, b pairs, t tokens, e embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from vlp_bench.batch import Batch, Place
from vlp_bench.data.datasets.prompts import world_tokenizer
from vlp_bench.data.text import Tokenizer
from vlp_bench.models.checkpoints.hub import read_pretrained
from vlp_bench.models.checkpoints.locations import located
from vlp_bench.models.checkpoints.read_write import load_model
from vlp_bench.models.losses import contrastive
from vlp_bench.models.xvlm.model import XVLM


@dataclass(frozen=True)
class CLIPSizes:
    """Sizes of a CLIP; the defaults are ViT-B/16's. image_size, patch_size: pixels."""

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    vocab_size: int = 49408
    max_tokens: int = 77
    embed_dim: int = 512

    def config(self, attention: str) -> CLIPConfig:
        """As transformers wants it."""
        vision = {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            **_tower(self.vision_width, self.vision_layers, self.vision_heads),
        }
        text = {
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_tokens,
            "eos_token_id": self.vocab_size - 1,
            "bos_token_id": self.vocab_size - 2,
            **_tower(self.text_width, self.text_layers, self.text_heads),
        }
        both: dict[str, Any] = {"text_config": text, "vision_config": vision, "projection_dim": self.embed_dim}
        return CLIPConfig(**both, attn_implementation=attention)  # pyright: ignore[reportCallIssue]


def _tower(width: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


class _DualEncoder(nn.Module):
    """Two towers whose embeddings are compared by their cosine."""

    def embed_images(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, e) of length 1, float32."""
        raise AssertionError("a dual encoder embeds images")

    def embed_texts(self, ids: Tensor, atts: Tensor | None) -> Tensor:
        """(b, t) token ids and attention (1 = token) -> (b, e) of length 1, float32."""
        raise AssertionError("a dual encoder embeds texts")

    @property
    def temperature(self) -> Tensor:
        """What cosines are divided by, a scalar."""
        raise AssertionError("a dual encoder has a temperature")

    @property
    def adapter(self) -> DualAdapter:
        """What pruning asks of this model."""
        return DualAdapter()

    def contrastive_losses(self, batch: Batch) -> dict[str, Tensor]:
        """`itc`: both directions' cross entropy over the batch; images of one class share their sentence's target."""
        if batch.text_ids is None or batch.text_atts is None:
            raise ValueError("this batch has no text_ids or no text_atts, which the model needs here")
        images, texts = self.embed_images(batch.images), self.embed_texts(batch.text_ids, batch.text_atts)
        return {"itc": contrastive(images, texts, self.temperature, batch.labels)}


class CLIP(_DualEncoder):
    """transformers' CLIPModel with the questions of this package. `sizes` builds one with random weights."""

    def __init__(self, clip: CLIPModel | CLIPSizes | None = None, *, attention: str = "sdpa") -> None:
        super().__init__()
        sizes = CLIPSizes() if clip is None else clip
        self.clip = CLIPModel(sizes.config(attention)) if isinstance(sizes, CLIPSizes) else sizes

    def embed_images(self, images: Tensor) -> Tensor:
        pooled = self.clip.vision_model(pixel_values=images).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def embed_texts(self, ids: Tensor, atts: Tensor | None) -> Tensor:
        pooled = self.clip.text_model(input_ids=ids, attention_mask=atts).pooler_output
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1)

    @property
    def temperature(self) -> Tensor:
        return (-self.clip.logit_scale).exp()


class XVLMTowers(_DualEncoder):
    """XVLM's vision transformer and text layers alone, as ITC compared them: a CLIP of the embedded world.

    Fusion, the word head, ITM's and the boxes' are left behind, so that sparsity counts what is used.
    """

    def __init__(self, model: XVLM) -> None:
        super().__init__()
        layers = model.text_encoder.bert.encoder.layer
        del layers[model.config.first_fusion_layer :]
        model.text_encoder.cls = model.itm_head = model.bbox_head = nn.Identity()  # pyright: ignore
        self.xvlm = model

    def embed_images(self, images: Tensor) -> Tensor:
        return self.xvlm.project_image(self.xvlm.encode_image(images))

    def embed_texts(self, ids: Tensor, atts: Tensor | None) -> Tensor:
        return self.xvlm.project_text(self.xvlm.encode_text(ids, atts))

    @property
    def temperature(self) -> Tensor:
        return self.xvlm.temp


def build_clip(weights: Path | str, attention: str = "sdpa") -> CLIP:
    """A CLIP from a folder in the hub's layout, or `hf:owner/name`: the constructor call of conf/model."""
    return CLIP(read_pretrained(CLIPModel, weights, attention)).eval()


def build_towers(weights: Path | str, attention: str = "sdpa") -> XVLMTowers:
    """The two towers of one of our XVLM files."""
    model = load_model(weights, attention=attention)
    if not isinstance(model, XVLM):
        raise ValueError(f"{weights} holds a {type(model).__name__}; the towers are an XVLM's")
    return XVLMTowers(model).eval()


def clip_tokenizer(weights: Path | str) -> CLIPTokenizer:
    """The tokenizer that lies beside a CLIP's weights; ValueError if it is not there."""
    folder = located(weights)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(f"{weights}: no tokenizer.json (nor vocab.json and merges.txt) in {folder}")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def sentence_tokenizer(vocab: str | None, weights: Path | str | None) -> Tokenizer:
    """What reads sentences about classes: of the embedded world's CLIP ("world"), else what lies beside the weights."""
    return world_tokenizer() if vocab == "world" or weights is None else clip_tokenizer(weights)


@dataclass(frozen=True)
class DualAdapter:
    """A dual encoder's answers to the six questions of pruning (see `vlp_bench.pruning`)."""

    def prunable(self, model: nn.Module) -> list[str]:
        """Names of all linear weights of both towers' layers; the projections stay dense."""
        linear = {id(m.weight) for n, m in model.named_modules() if isinstance(m, nn.Linear) and _layer(n) is not None}
        return [name for name, parameter in model.named_parameters() if id(parameter) in linear]

    def place(self, name: str) -> Place:
        """Vision or text, and the layer."""
        block = _layer(name)
        assert block is not None, name
        return Place("vision" if ".vision_" in name else "text", block)

    def encode(self, model: _DualEncoder, batch: Batch) -> None:
        """Both towers, without gradients."""
        with torch.no_grad():
            model.contrastive_losses(batch)

    def loss(self, model: _DualEncoder, batch: Batch) -> Tensor:
        """The contrastive loss."""
        return model.contrastive_losses(batch)["itc"]

    def token_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        """(b, t) bool, real tokens at a text layer's input; None for images."""
        if self.place(name).modality == "vision":
            return None
        assert batch.text_atts is not None and batch.text_atts.shape[1] == tokens, name  # noqa: PT018
        return batch.text_atts.bool()

    def rows(self, batch: Batch) -> int:
        """Images in the batch."""
        return len(batch.images)


def _layer(name: str) -> str | None:
    """The part of a dotted name that ends with a layer's number; None if it lies in no layer."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit() and parts[i - 1] in ("layer", "layers")), None)
    return None if at is None else ".".join(parts[: at + 1])
