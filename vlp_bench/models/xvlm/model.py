"""XVLM: a CLIP vision transformer, a BERT split into text and fusion layers, and the losses that trained them.

Source: Zeng et al., X-VLM (ICML 2022), with the CLIP vision encoder that MULTIFLOW (Farina et al., CVPR 2024) prunes.
Shape legend: b captions, m images, n patches, t tokens, p masked positions, d width, e embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench.batch import Batch, Place
from vlp_bench.models.attention_masks import key_mask
from vlp_bench.models.losses import box_losses, contrastive
from vlp_bench.models.negatives import hard_negatives
from vlp_bench.models.reranking import Score, SeenImages, asking
from vlp_bench.models.rows import taken
from vlp_bench.models.xvlm.towers import (
    ATTENTIONS,
    XVLMConfig,
    init_linear,
    resize_positions,
    text_tower,
    vision_tower,
)
from vlp_bench.processes import gather, gather_padded, own_rows

TEMP_RANGE = (0.001, 0.5)
DENSE = ("vision_proj", "text_proj", "itm_head", "bbox_head", "text_encoder.cls")  # never pruned
READS_IMAGE = (".crossattention.self.key.", ".crossattention.self.value.")


def head(width: int, out: int) -> nn.Sequential:
    """Linear(d, 2d), LayerNorm, GELU, Linear(2d, out)."""
    layers = nn.Sequential(nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, out))
    return layers.apply(init_linear)


@dataclass
class _Encoded:
    """A batch after the two single-modality towers: what all losses start from."""

    images: Tensor  # (b, 1 + n, d) the view each caption describes
    image_atts: Tensor | None  # (b, 1 + n) or None: all patches
    whole: Tensor  # (b, 1 + n, d) the whole image of each caption
    texts: Tensor  # (b, t, d)
    text_atts: Tensor  # (b, t)


class XVLM(nn.Module):
    """The model. `attention` is `sdpa` or `eager`; both give the same numbers to about 1e-6."""

    def __init__(self, config: XVLMConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {attention!r}")
        self.config = config
        self.attention = attention
        self.vision_encoder = vision_tower(config, attention)
        self.text_encoder = text_tower(config, attention)
        self.vision_proj = nn.Linear(config.vision_width, config.embed_dim)
        self.text_proj = nn.Linear(config.text_width, config.embed_dim)
        self.vision_proj.apply(init_linear)
        self.text_proj.apply(init_linear)
        self.temp = nn.Parameter(torch.tensor(config.temp))
        self.itm_head = head(config.text_width, 2)
        self.bbox_head = head(config.text_width, 4)

    @property
    def adapter(self) -> XVLMAdapter:
        """What pruning asks of this model."""
        return XVLMAdapter(self.config.first_fusion_layer)

    def resize_images(self, image_size: int) -> None:
        """Take images of another size from now on (pixels): the table of positions is resized bicubically.

        The papers prune at 224 px and fine-tune at 384 px; no prunable weight depends on the size.
        """
        self.config = replace(self.config, image_size=image_size)
        embeddings = self.vision_encoder.embeddings
        table = resize_positions(embeddings.position_embedding.weight.detach(), self.config.tokens)
        embeddings.position_embedding = nn.Embedding.from_pretrained(table.clone(), freeze=False)
        positions = torch.arange(self.config.tokens, device=table.device).expand(1, -1)
        embeddings.register_buffer("position_ids", positions, persistent=False)
        embeddings.image_size, embeddings.num_positions = image_size, self.config.tokens
        embeddings.num_patches = self.config.tokens - 1

    # --- towers ---

    def _vision_layers(self, x: Tensor, first: int, last: int, atts: Tensor | None = None) -> Tensor:
        mask = key_mask(atts, self.attention)
        for layer in self.vision_encoder.encoder.layers[first:last]:
            x = layer(x, mask)
        return x

    def _patches(self, images: Tensor) -> Tensor:
        return self.vision_encoder.pre_layrnorm(self.vision_encoder.embeddings(images))

    def encode_image(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, 1 + n, d); row 0 is [CLS]."""
        x = self._vision_layers(self._patches(images), 0, self.config.vision_layers)
        return self.vision_encoder.post_layernorm(x)

    def encode_regions(self, images: Tensor, idx_to_group_img: Tensor, image_atts: Tensor) -> tuple[Tensor, Tensor]:
        """m images and b regions of them -> what each region shows, and its whole image: (b, 1 + n, d) each.

        idx_to_group_img: (b,) row of `images`. image_atts: (b, 1 + n), 1 = patch in the region. Images pass the lower
        layers once; in the last `local_attn_depth` layers a region's tokens attend to that region only.
        """
        split = self.config.vision_layers - self.config.local_attn_depth
        x = self._vision_layers(self._patches(images), 0, split)
        atts = torch.cat([image_atts, image_atts.new_ones(x.shape[:2])])
        x = self._vision_layers(torch.cat([taken(x, idx_to_group_img), x]), split, self.config.vision_layers, atts)
        x = self.vision_encoder.post_layernorm(x)
        regions, whole = x[: len(image_atts)], x[len(image_atts) :]
        return regions, taken(whole, idx_to_group_img)

    def encode_text(self, ids: Tensor, atts: Tensor | None) -> Tensor:
        """(b, t) token ids and attention (1 = token; None = all are) -> (b, t, d), text layers only."""
        mask = key_mask(atts, self.attention)
        x = self.text_encoder.bert.embeddings(input_ids=ids)
        for layer in self.text_encoder.bert.encoder.layer[: self.config.first_fusion_layer]:
            x = layer(x, mask)
        return x

    def fuse(
        self, text_states: Tensor, text_atts: Tensor | None, image_states: Tensor, image_atts: Tensor | None = None
    ) -> Tensor:
        """(b, t, d) text and (b, 1 + n, d) image states -> (b, t, d), fusion layers only. Attention None = all."""
        mask, image_mask = key_mask(text_atts, self.attention), key_mask(image_atts, self.attention)
        x = text_states
        for layer in self.text_encoder.bert.encoder.layer[self.config.first_fusion_layer :]:
            x = layer(x, mask, image_states, encoder_attention_mask=image_mask)
        return x

    def project_image(self, states: Tensor) -> Tensor:
        """(b, 1 + n, d) -> (b, e), from [CLS], of length 1, float32."""
        return F.normalize(self.vision_proj(states[:, 0]).float(), dim=-1)

    def project_text(self, states: Tensor) -> Tensor:
        """(b, t, d) -> (b, e), from [CLS], of length 1, float32."""
        return F.normalize(self.text_proj(states[:, 0]).float(), dim=-1)

    def match(self, text_states: Tensor, text_atts: Tensor | None, image_states: Tensor) -> Tensor:
        """(b,) logit that text and image belong together: retrieval's re-ranking score, of a model in eval mode."""
        asks = self.asks(text_states, text_atts)
        return self.matcher(image_states)(asks, text_atts, torch.arange(len(image_states)))

    def asks(self, states: Tensor, atts: Tensor | None) -> Tensor:
        """(b, t, d) of `encode_text` -> (b, t, d), what a `matcher` is given of each text."""
        return asking(self._fusion_layers[0], states, atts)

    @property
    def _fusion_layers(self) -> nn.ModuleList:
        return self.text_encoder.bert.encoder.layer[self.config.first_fusion_layer :]

    def matcher(self, image_states: Tensor) -> Score:
        """`match` for many texts of each of some images (m, 1 + n, d)."""
        images = SeenImages(self._fusion_layers, image_states)
        return lambda texts, atts, image: self.itm_head(images.fuse(texts, atts, image)).float()[:, 1]

    # --- losses ---

    def pretraining_losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """`itc`, `itm`, `mlm`, and for a region batch with boxes `bbox` and `giou`: scalars.

        `generator` draws ITM's negatives; None is torch's global one. ValueError if the batch lacks what a loss needs.
        """
        x = self._encode(batch)
        losses = self._alignment_losses(x, batch, generator)
        if batch.target_bbox is not None:
            predicted = self.predict_box(x.texts, x.text_atts, x.whole)
            losses |= box_losses(predicted, batch.target_bbox, batch.is_image)
        return losses

    def alignment_losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """`itc`, `itm` and `mlm` of a general or a region batch: what pruning differentiates (no box loss)."""
        return self._alignment_losses(self._encode(batch), batch, generator)

    def word_loss(self, batch: Batch) -> Tensor:
        """`mlm` alone, at a third of the cost of all losses."""
        return self._mlm(self._encode(batch), batch)

    def retrieval_losses(
        self, batch: Batch, generator: torch.Generator | None = None, *, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """`itc` and `itm` of fine-tuning on retrieval; pairs with equal `batch.idx` are never negatives.

        `progress` plays no part here: it is for models whose targets change as training goes on.
        """
        return self._pair_losses(self._encode(batch), batch.idx, generator)

    def predict_box(self, texts: Tensor, text_atts: Tensor | None, whole: Tensor) -> Tensor:
        """(b, 4) centre x, centre y, width, height in 0..1 of what each text describes in its whole image."""
        return self.bbox_head(self.fuse(texts, text_atts, whole)[:, 0]).float().sigmoid()

    def predict_words(self, batch: Batch) -> Tensor:
        """(b, p, vocabulary) logits of the masked words of a general or region batch, given the image."""
        x = self._encode(batch)
        return self._word_logits(x, batch)

    def _encode(self, batch: Batch) -> _Encoded:
        ids, atts = _need(batch, "text_ids"), _need(batch, "text_atts")
        texts = self.encode_text(ids, atts)
        if batch.idx_to_group_img is None:
            images = self.encode_image(batch.images)
            return _Encoded(images, None, images, texts, atts)
        image_atts = _need(batch, "image_atts")
        regions, whole = self.encode_regions(batch.images, batch.idx_to_group_img, image_atts)
        return _Encoded(regions, image_atts, whole, texts, atts)

    def _alignment_losses(self, x: _Encoded, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        with torch.no_grad():
            self.temp.clamp_(*TEMP_RANGE)
        losses = self._pair_losses(x, batch.idx, generator)
        return losses | {"mlm": self._mlm(x, batch)}

    def _pair_losses(self, x: _Encoded, idx: Tensor | None, generator: torch.Generator | None) -> dict[str, Tensor]:
        """ITC and ITM over the batches of all processes: they must draw with generators in the same state."""
        image_feats, text_feats = gather(self.project_image(x.images)), gather(self.project_text(x.texts))
        idx = None if idx is None else gather(idx)
        negatives = hard_negatives(
            image_feats, text_feats, self.temp, idx, uniform=self.config.itm_uniform, generator=generator
        )
        itc = contrastive(image_feats, text_feats, self.temp, idx)
        return {"itc": itc, "itm": self._itm(x, *negatives)}

    def _itm(self, x: _Encoded, image_of_text: Tensor, text_of_image: Tensor) -> Tensor:
        """Cross entropy of b true pairs, b texts with a wrong image and b images with a wrong text.

        The two rows of indices are into the batch of all processes (n·b,); each answers for its own b pairs.
        """
        b = len(x.texts)
        texts, text_atts = gather_padded(x.texts), gather_padded(x.text_atts)
        images, image_atts = gather(x.images), None if x.image_atts is None else gather(x.image_atts)
        right = own_rows(b, x.texts.device)
        text_rows = torch.cat([right, right, text_of_image[right]])
        image_rows = torch.cat([right, image_of_text[right], right])
        image_atts = None if image_atts is None else image_atts[image_rows]
        fused = self.fuse(taken(texts, text_rows), text_atts[text_rows], taken(images, image_rows), image_atts)
        return F.cross_entropy(self._itm_logits(fused), (torch.arange(3 * b, device=right.device) < b).long())

    def _itm_logits(self, fused: Tensor) -> Tensor:
        return self.itm_head(fused[:, 0]).float()

    def _mlm(self, x: _Encoded, batch: Batch) -> Tensor:
        """Cross entropy over the masked words; 0 (still differentiable) if a batch masks none."""
        logits, labels = self._word_logits(x, batch), _need(batch, "masked_ids")
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        return total / (labels != -100).sum().clamp(min=1)

    def _word_logits(self, x: _Encoded, batch: Batch) -> Tensor:
        ids, where = _need(batch, "text_ids_masked"), _need(batch, "masked_pos")
        states = self.fuse(self.encode_text(ids, x.text_atts), x.text_atts, x.images, x.image_atts)
        picked = states.gather(1, where[..., None].expand(-1, -1, states.shape[-1]))  # (b, p, d)
        return self.text_encoder.cls(picked).float()


def _need(batch: Batch, field: str) -> Tensor:
    value = getattr(batch, field)
    if value is None:
        raise ValueError(f"this batch has no {field}, which the model needs here")
    return value


@dataclass(frozen=True)
class XVLMAdapter:
    """XVLM's answers to the six questions of pruning (see `vlp_bench.pruning`)."""

    first_fusion_layer: int = 6

    def prunable(self, model: nn.Module) -> list[str]:
        """Names of all linear weights but those of the projections and heads; a shared weight has one name."""
        linear = {
            id(module.weight)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(DENSE)
        }
        return [name for name, parameter in model.named_parameters() if id(parameter) in linear]

    def place(self, name: str) -> Place:
        """Vision, text (self-attention only) or fusion (all of a layer that attends to the image), and the layer."""
        if name.startswith("vision_encoder."):
            return Place("vision", ".".join(name.split(".")[:4]))
        parts = name.split(".")
        assert parts[:4] == ["text_encoder", "bert", "encoder", "layer"], name
        return Place("fusion" if int(parts[4]) >= self.first_fusion_layer else "text", ".".join(parts[:5]))

    def encode(self, model: XVLM, batch: Batch) -> None:
        """Both towers and fusion of the true pairs, on unmasked words, without gradients."""
        with torch.no_grad():
            x = model._encode(batch)
            model.fuse(x.texts, x.text_atts, x.images, x.image_atts)

    def loss(self, model: XVLM, batch: Batch) -> Tensor:
        """ITC + ITM + MLM; the box loss is not part of it, as in the released code."""
        return torch.stack(list(model.alignment_losses(batch).values())).sum()

    def token_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        """(b, t) bool, real tokens of the words at a text or fusion layer's input; None where the input is the image.

        Keys and values of cross-attention read image tokens, whatever the two lengths happen to be.
        """
        if name.startswith("vision_encoder.") or any(part in name for part in READS_IMAGE):
            return None
        mask = _need(batch, "text_atts").bool()
        assert mask.shape[1] == tokens, f"{name} saw {tokens} tokens, the batch has {mask.shape[1]}"
        return mask

    def rows(self, batch: Batch) -> int:
        """Images in the batch."""
        return len(batch.images)
