"""XVLM's configuration and its two towers, composed from transformers modules.

Shape legend: m images, n patches, d width.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, CLIPVisionConfig, CLIPVisionModel
from transformers.models.bert.modeling_bert import BertLayer

ATTENTIONS = ("eager", "sdpa")
STEMS = ("patch", "conv")
STEM_STRIDE = 8


def inner_width(ratio: float, width: int) -> int:
    """Width of a feed-forward network's hidden layer.

    Raises:
        ValueError: `ratio` times `width` is not a whole number.
    """
    product = ratio * width
    if not math.isclose(product, round(product), rel_tol=1e-9):
        raise ValueError(f"mlp_ratio {ratio:g} times the width {width} is {product:g}, which is no width")
    return round(product)


@dataclass(frozen=True)
class XVLMConfig:
    """Sizes of an XVLM; the defaults are the paper's XVLM-CLIP (CLIP ViT-B/16 and BERT-base, 212 M parameters).

    image_size, patch_size: pixels. text_layers: all BERT layers, of which the last `fusion_layers` also attend to the
    image. local_attn_depth: how many of the last vision layers see one region only. mlp_ratio: inner width of the
    feed-forward networks over the width, any number whose product is whole. stem: `patch` is one patch convolution
    (the paper's), `conv` a stack of small ones with stride 8. dropout: of text and fusion. itm_uniform: see
    `negatives.hard_negatives`. vision_eps, text_eps: of LayerNorm, CLIP's and BERT's.
    """

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    local_attn_depth: int = 4
    text_width: int = 768
    text_layers: int = 12
    fusion_layers: int = 6
    text_heads: int = 12
    vocab_size: int = 30522
    embed_dim: int = 256
    mlp_ratio: float = 4
    stem: str = "patch"
    dropout: float = 0.1
    max_positions: int = 512
    temp: float = 0.07
    itm_uniform: float = 0.0
    vision_eps: float = 1e-5
    text_eps: float = 1e-12

    def __post_init__(self) -> None:
        for field in fields(self):
            positive = isinstance(field.default, str | float) or getattr(self, field.name) > 0
            self._check(positive or field.name == "local_attn_depth", field.name, "at least 1")
        self._check(self.temp > 0, "temp", "above 0")
        self._check(self.stem in STEMS, "stem", f"one of {', '.join(STEMS)}")
        self._check(self.image_size % self.patch_size == 0, "image_size", f"a multiple of patch_size {self.patch_size}")
        self._check(self.stem == "patch" or self.patch_size == STEM_STRIDE, "patch_size", "8 with stem=conv")
        self._check(self.vision_width % self.vision_heads == 0, "vision_width", "a multiple of vision_heads")
        self._check(self.text_width % self.text_heads == 0, "text_width", "a multiple of text_heads")
        self._check(self.text_width == self.vision_width, "text_width", f"equal to vision_width {self.vision_width}")
        self._check(0 <= self.local_attn_depth <= self.vision_layers, "local_attn_depth", "0 to vision_layers")
        self._check(0 < self.fusion_layers <= self.text_layers, "fusion_layers", "1 to text_layers")
        self._check(0 <= self.dropout < 1, "dropout", "at least 0 and below 1")
        self._check(self.itm_uniform >= 0, "itm_uniform", "at least 0")
        inner_width(self.mlp_ratio, self.vision_width)
        for name in ("vision_eps", "text_eps"):
            self._check(getattr(self, name) > 0, name, "above 0")

    def _check(self, holds: bool, field: str, allowed: str) -> None:
        if not holds:
            raise ValueError(f"XVLM config: {field} must be {allowed}, got {getattr(self, field)}")

    @property
    def tokens(self) -> int:
        """Image tokens: the patches and [CLS]."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def first_fusion_layer(self) -> int:
        """Index of the first BERT layer that attends to the image."""
        return self.text_layers - self.fusion_layers


class ConvStem(nn.Sequential):
    """(m, 3, h, w) -> (m, d, h/8, w/8): 3x3 convolutions with group norm and GELU, then one 2x2 convolution.

    Sees colour and edges at full resolution, which a single patch convolution on a tiny image does not learn.
    """

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for out, stride in ((24, 2), (48, 1), (64, 2), (96, 1)):
            layers += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.GroupNorm(8, out), nn.GELU()]
            channels = out
        super().__init__(*layers, nn.Conv2d(channels, width, 2, 2, bias=False))

    @property
    def weight(self) -> Tensor:
        """The last convolution's weight: CLIP's embedding asks its patch module for the dtype to feed it."""
        last = self[-1]
        assert isinstance(last, nn.Conv2d)
        return last.weight


def vision_tower(config: XVLMConfig, attention: str) -> CLIPVisionModel:
    """CLIP's vision transformer, with the stem the config asks for."""
    vision = CLIPVisionConfig(
        hidden_size=config.vision_width,
        intermediate_size=inner_width(config.mlp_ratio, config.vision_width),
        layer_norm_eps=config.vision_eps,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.vision_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act="quick_gelu",
        attn_implementation=attention,  # pyright: ignore[reportCallIssue]
    )
    tower = CLIPVisionModel(vision)
    if config.stem == "conv":
        tower.embeddings.patch_embedding = ConvStem(config.vision_width)  # pyright: ignore[reportAttributeAccessIssue]
        waves = sine_positions(config.image_size // config.patch_size, config.vision_width)
        with torch.no_grad():
            tower.embeddings.position_embedding.weight[1:] = waves
    return tower


def sine_positions(side: int, width: int) -> Tensor:
    """(side^2, d) sines and cosines of row and column, of standard deviation 0.7: where a table of positions starts.

    A table that starts at CLIP's 0.02 beside a convolutional stem of standard deviation 1 is not heard for thousands of
    steps: the small model then learns what there is, never where.
    """
    waves = width // 4
    frequency = torch.linspace(0.2, 1.6, waves)  # radians per patch
    angle = torch.arange(side)[:, None] * frequency  # (side, d/4)
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, d/2)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    table = torch.cat([rows, columns], dim=2).reshape(side * side, -1)
    return F.pad(table, (0, width - table.shape[1]))


def text_tower(config: XVLMConfig, attention: str) -> BertForMaskedLM:
    """BERT whose last `fusion_layers` layers also attend to the image; attention is bidirectional throughout.

    Fusion layers are BERT's decoder layers, appended to an encoder of plain ones: their self-attention must not stay
    causal, which SDPA would apply whenever no padding mask is passed.
    """
    plain = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.text_width,
        intermediate_size=inner_width(config.mlp_ratio, config.text_width),
        layer_norm_eps=config.text_eps,
        num_hidden_layers=config.first_fusion_layer,
        num_attention_heads=config.text_heads,
        max_position_embeddings=config.max_positions,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        use_cache=False,
        initializer_range=_initial_std(config.text_width),
        attn_implementation=attention,  # pyright: ignore[reportCallIssue]
    )
    tower = BertForMaskedLM(plain)
    fusion = copy.deepcopy(tower.config)
    fusion.is_decoder = fusion.add_cross_attention = True
    for i in range(config.first_fusion_layer, config.text_layers):
        layer = BertLayer(fusion, layer_idx=i)
        layer.attention.self.is_causal = False
        tower.bert.encoder.layer.append(layer.apply(partial(init_linear, std=_initial_std(config.text_width))))
    tower.config.num_hidden_layers = config.text_layers
    return tower


def _initial_std(width: int) -> float:
    """BERT's 0.02 at its width of 768, and as 1 / sqrt(width) elsewhere: smaller, small models hardly attend."""
    return 0.02 * (768 / width) ** 0.5


def init_linear(module: nn.Module, std: float = 0.02) -> None:
    """BERT's initialisation of a linear layer: normal weights, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        nn.init.zeros_(module.bias)


def resize_positions(table: Tensor, tokens: int) -> Tensor:
    """(1 + n, d) position embeddings -> (tokens, d): [CLS] is kept, the square grid of patches resized bicubically."""
    if len(table) == tokens:
        return table
    old, new = round((len(table) - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old * old + 1 != len(table) or new * new + 1 != tokens:
        return table  # not a square grid: the shape check reports it
    grid = table[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], grid.permute(0, 2, 3, 1).reshape(new * new, -1)])
