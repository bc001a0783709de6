"""BLIP's configuration and its towers.

Source: Li et al., BLIP (ICML 2022), and its released code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from transformers import BertConfig

from vlp_bench.models.blip.med import TextDecoder, TextTower, bert_config
from vlp_bench.models.vit import EPS, VisionTransformer
from vlp_bench.models.xvlm.towers import ATTENTIONS, STEM_STRIDE, STEMS, inner_width


@dataclass(frozen=True)
class BLIPConfig:
    """Sizes of a BLIP; the defaults are the paper's base model (ViT-B/16 and BERT-base, shared).

    image_size, patch_size: pixels. mlp_ratio: inner width of the feed-forward networks over the width, any number
    whose product is whole. vision_eps, text_eps: of LayerNorm (BLIP's files are trained with 1e-6, timm's). queue_size:
    momentum features that ITC compares with. momentum: share of a copy that an update keeps. label_smoothing: of LM.
    drop_path: of the vision transformer's last layer in training. enc_id, dec_id, pad_id: tokens [ENC], [DEC], [PAD].
    decoder: False for the retrieval model, which has none. stem: `patch` is one patch convolution (the paper's), `conv`
    a stack of small ones with stride 8 (our small model's).
    """

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocab_size: int = 30524
    embed_dim: int = 256
    mlp_ratio: float = 4
    dropout: float = 0.1
    drop_path: float = 0.0
    max_positions: int = 512
    temp: float = 0.07
    queue_size: int = 57600
    momentum: float = 0.995
    label_smoothing: float = 0.1
    dec_id: int = 30522
    enc_id: int = 30523
    pad_id: int = 0
    decoder: bool = True
    stem: str = "patch"
    vision_eps: float = EPS
    text_eps: float = 1e-12

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(field.default) is int and field.name != "pad_id":
                self._check(getattr(self, field.name) > 0, field.name, "at least 1")
        for name in ("dropout", "drop_path", "momentum", "label_smoothing"):
            self._check(0 <= getattr(self, name) < 1, name, "at least 0 and below 1")
        for name in ("vision_eps", "text_eps"):
            self._check(getattr(self, name) > 0, name, "above 0")
        inner_width(self.mlp_ratio, self.vision_width)
        for name in ("dec_id", "enc_id", "pad_id"):
            self._check(
                0 <= getattr(self, name) < self.vocab_size, name, f"at least 0 and below vocab_size {self.vocab_size}"
            )
        self._check(self.temp > 0, "temp", "above 0")
        self._check(self.stem in STEMS, "stem", f"one of {', '.join(STEMS)}")
        self._check(self.stem == "patch" or self.patch_size == STEM_STRIDE, "patch_size", "8 with stem=conv")
        self._check(self.image_size % self.patch_size == 0, "image_size", f"a multiple of patch_size {self.patch_size}")
        self._check(self.vision_width % self.vision_heads == 0, "vision_width", "a multiple of vision_heads")
        self._check(self.text_width % self.text_heads == 0, "text_width", "a multiple of text_heads")
        self._check(self.text_width == self.vision_width, "text_width", f"equal to vision_width {self.vision_width}")

    def _check(self, holds: bool, field: str, allowed: str) -> None:
        if not holds:
            raise ValueError(f"BLIP config: {field} must be {allowed}, got {getattr(self, field)}")

    @property
    def tokens(self) -> int:
        """Image tokens: the patches and [CLS]."""
        return (self.image_size // self.patch_size) ** 2 + 1


def blip_vision(config: BLIPConfig, attention: str) -> VisionTransformer:
    """The vision transformer of a BLIP; `attention` is `sdpa` or `eager`, else ValueError."""
    if attention not in ATTENTIONS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {attention!r}")
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
    )


def blip_text(config: BLIPConfig, attention: str) -> TextTower:
    """A text encoder of a BLIP."""
    return TextTower(_bert(config, attention))


def blip_decoder(config: BLIPConfig, attention: str) -> TextDecoder:
    """A text decoder of a BLIP, sharing nothing."""
    return TextDecoder(_bert(config, attention))


def _bert(config: BLIPConfig, attention: str) -> BertConfig:
    return bert_config(
        vocab_size=config.vocab_size,
        width=config.text_width,
        layers=config.text_layers,
        heads=config.text_heads,
        mlp_ratio=config.mlp_ratio,
        eps=config.text_eps,
        max_positions=config.max_positions,
        dropout=config.dropout,
        attention=attention,
    )
