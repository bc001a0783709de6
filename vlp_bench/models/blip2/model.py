"""BLIP-2 through transformers: ViT-g, the Q-Former and FlanT5 or OPT.

Source: Li et al., BLIP-2 (ICML 2023); ECoFLaP (Sung et al., ICLR 2024) prunes the vision transformer's and the language
model's blocks and leaves the Q-Former dense.
Shape legend: b pairs, q query tokens, t tokens, d width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    T5Config,
)

from vlp_bench.batch import Batch, Place
from vlp_bench.models.checkpoints.hub import read_pretrained
from vlp_bench.models.next_word_losses import IGNORED
from vlp_bench.models.xvlm.towers import resize_positions

LANGUAGES = ("t5", "opt")
READS_ENCODER = (".EncDecAttention.k.", ".EncDecAttention.v.")


@dataclass(frozen=True)
class BLIP2Sizes:
    """Sizes of a BLIP-2; the defaults are ViT-g (39 blocks) with FlanT5-XL, 4 billion parameters.

    language: `t5` (encoder and decoder of `text_layers` each) or `opt` (a decoder). *_inner: width inside the
    feed-forward networks.
    """

    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 1408
    vision_layers: int = 39
    vision_heads: int = 16
    vision_inner: int = 6144
    queries: int = 32
    query_width: int = 768
    query_layers: int = 12
    query_heads: int = 12
    language: str = "t5"
    text_width: int = 2048
    text_layers: int = 24
    text_heads: int = 32
    text_inner: int = 5120
    vocab_size: int = 32128

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise ValueError(f"BLIP-2 config: language must be one of {', '.join(LANGUAGES)}, got {self.language!r}")

    def config(self, attention: str) -> Blip2Config:
        """As transformers wants it."""
        vision = Blip2VisionConfig(
            hidden_size=self.vision_width,
            intermediate_size=self.vision_inner,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.vision_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
        )
        bridge = Blip2QFormerConfig(
            hidden_size=self.query_width,
            intermediate_size=4 * self.query_width,
            num_hidden_layers=self.query_layers,
            num_attention_heads=self.query_heads,
            encoder_hidden_size=self.vision_width,
        )
        settings: dict[str, Any] = {"num_query_tokens": self.queries, "attn_implementation": attention}
        return Blip2Config(vision_config=vision, qformer_config=bridge, text_config=self._language(), **settings)

    def _language(self) -> T5Config | OPTConfig:
        if self.language == "t5":
            return T5Config(
                vocab_size=self.vocab_size,
                d_model=self.text_width,
                d_kv=self.text_width // self.text_heads,
                d_ff=self.text_inner,
                num_layers=self.text_layers,
                num_decoder_layers=self.text_layers,
                num_heads=self.text_heads,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,  # pyright: ignore[reportCallIssue]
                decoder_start_token_id=0,  # pyright: ignore[reportCallIssue]
            )
        return OPTConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.text_width,
            word_embed_proj_dim=self.text_width,
            ffn_dim=self.text_inner,
            num_hidden_layers=self.text_layers,
            num_attention_heads=self.text_heads,
        )


class BLIP2(nn.Module):
    """transformers' model with the questions of this package.

    Texts are token ids of its language model's own tokenizer, without image tokens: the image's query tokens are put
    before them here. For FlanT5 the first half of a text is read by the encoder, the rest is what the decoder says.
    """

    def __init__(
        self, net: Blip2ForConditionalGeneration | BLIP2Sizes | None = None, *, attention: str = "sdpa"
    ) -> None:
        super().__init__()
        sizes = BLIP2Sizes() if net is None else net
        if isinstance(sizes, BLIP2Sizes):
            sizes = Blip2ForConditionalGeneration(sizes.config(attention))
        self.net = sizes

    @property
    def adapter(self) -> BLIP2Adapter:
        """What pruning asks of this model."""
        return BLIP2Adapter(self.queries, self.encodes)

    @property
    def queries(self) -> int:
        """Query tokens of an image."""
        return self.net.query_tokens.shape[1]

    @property
    def encodes(self) -> bool:
        """Whether the language model has an encoder (FlanT5)."""
        return not self.net.config.use_decoder_only_language_model

    def resize_images(self, image_size: int) -> None:
        """Take images of another size from now on (pixels): the table of positions is resized bicubically."""
        places: Any = self.net.vision_model.embeddings
        tokens = (image_size // places.patch_size) ** 2 + 1
        table = resize_positions(places.position_embedding.detach()[0], tokens)[None].clone()
        places.position_embedding = nn.Parameter(table, requires_grad=places.position_embedding.requires_grad)
        places.image_size = image_size

    def image_tokens(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, q, d), as the language model reads them."""
        return self.net.get_image_features(images, return_dict=True).pooler_output  # pyright: ignore[reportCallIssue]

    def language_losses(self, batch: Batch) -> dict[str, Tensor]:
        """`lm`: the loss of each next word given the image, where there is one (FlanT5: and the text's first half)."""
        ids, atts = _text(batch)
        embed = self.net.get_input_embeddings()
        image = self.image_tokens(batch.images) if len(batch.images) else embed(ids[:, :0])
        (seen, seen_atts), (said, said_atts) = halves(ids, atts) if self.encodes else ((ids, atts), (ids, atts))
        words, labels = embed(seen), said.masked_fill(said_atts == 0, IGNORED)
        inputs = torch.cat([image.to(words.dtype), words], dim=1)
        visible = torch.cat([atts.new_ones(image.shape[:2]), seen_atts], dim=1)
        if not self.encodes:
            labels = torch.cat([labels.new_full(image.shape[:2], IGNORED), labels], dim=1)
        output = self.net.language_model(inputs_embeds=inputs, attention_mask=visible, labels=labels, use_cache=False)
        return {"lm": output.loss}

    @torch.no_grad()
    def generate(self, images: Tensor, ids: Tensor, atts: Tensor, **settings: Any) -> Tensor:
        """(b, 3, h, w) images and (b, t) prompts (OPT's padded on the left) -> (b, new) ids."""
        image, embed = self.image_tokens(images), self.net.get_input_embeddings()
        inputs = torch.cat([image, embed(ids)], dim=1)
        visible = torch.cat([atts.new_ones(image.shape[:2]), atts], dim=1)
        return self.net.language_model.generate(inputs_embeds=inputs, attention_mask=visible, **settings)


def halves(ids: Tensor, atts: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(b, t) ids and attention -> those of the first half of each text, rounded down, and those of the rest."""
    lengths = atts.sum(1, keepdim=True)
    cut = lengths // 2
    return _columns(ids, torch.zeros_like(cut), cut), _columns(ids, cut, lengths)


def _columns(ids: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens `start` (b, 1) to `end` (b, 1) of each row, and their attention; padded to the longest."""
    places = start + torch.arange(int((end - start).max()), device=ids.device)
    return ids.gather(1, places.clamp(max=ids.shape[1] - 1)), (places < end).long()


def build_blip2(weights: Path | str, attention: str = "sdpa") -> BLIP2:
    """A BLIP-2 from a folder in the hub's layout, or `hf:owner/name`: the constructor call of conf/model."""
    return BLIP2(read_pretrained(Blip2ForConditionalGeneration, weights, attention)).eval()


def _text(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.text_ids is None or batch.text_atts is None:
        raise ValueError("this batch has no text_ids or no text_atts, which the model needs here")
    if int(batch.text_atts.sum(1).min()) < 2:
        raise ValueError("texts of a batch must have at least 2 tokens: one is read, one is said")
    return batch.text_ids, batch.text_atts


@dataclass(frozen=True)
class BLIP2Adapter:
    """BLIP-2's answers to the six questions of pruning (see `vlp_bench.pruning`)."""

    queries: int = 32
    encodes: bool = True

    def prunable(self, model: nn.Module) -> list[str]:
        """Names of all linear weights in the blocks of vision transformer and language model."""
        linear = {id(m.weight) for n, m in model.named_modules() if isinstance(m, nn.Linear) and _block(n) is not None}
        return [name for name, parameter in model.named_parameters() if id(parameter) in linear]

    def place(self, name: str) -> Place:
        """Vision or text, and the block."""
        block = _block(name)
        assert block is not None, name
        return Place("vision" if ".vision_model." in name else "text", block)

    def encode(self, model: BLIP2, batch: Batch) -> None:
        """Everything, without gradients."""
        with torch.no_grad():
            model.language_losses(batch)

    def loss(self, model: BLIP2, batch: Batch) -> Tensor:
        """The loss of the text given the image."""
        return model.language_losses(batch)["lm"]

    def token_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        """(b, tokens) bool at a block of the language model, the image's query tokens counting; None for images."""
        if self.place(name).modality == "vision":
            return None
        ids, atts = _text(batch)
        (_, seen), (_, said) = halves(ids, atts) if self.encodes else ((ids, atts), (ids, atts))
        decoder = ".decoder." in name and not any(part in name for part in READS_ENCODER)
        image = atts.new_ones(len(atts), self.queries if len(batch.images) else 0)
        mask = said if self.encodes and decoder else torch.cat([image, seen], dim=1)
        if tokens == 1 and ".fc" in name:  # OPT's feed-forward networks read all tokens of a batch in one column
            mask = mask.reshape(-1, 1)
        assert mask.shape[1] == tokens, f"{name} saw {tokens} tokens, the batch has {mask.shape[1]}"
        return mask.bool()

    def modality_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        """(b, tokens) bool, the image's query tokens, before the words the language model reads; else None."""
        mask = self.token_mask(batch, name, tokens)
        decoder = self.encodes and ".decoder." in name and not any(part in name for part in READS_ENCODER)
        if mask is None or decoder or not len(batch.images):
            return None
        image = torch.arange(mask.numel() // len(batch.images), device=mask.device) < self.queries
        return image.expand(len(batch.images), -1).reshape(mask.shape)

    def rows(self, batch: Batch) -> int:
        """Images in the batch; texts, where it has none."""
        return len(batch.images) or len(_text(batch)[0])


def _block(name: str) -> str | None:
    """The block a dotted name lies in; None outside, and in the Q-Former."""
    parts = name.split(".")
    numbered = (i for i, part in enumerate(parts) if part.isdigit() and parts[i - 1] in ("layers", "block"))
    at = next(numbered, None)
    return None if at is None or "qformer" in parts else ".".join(parts[: at + 1])
